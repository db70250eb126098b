"""Gap layouts: texts with a part taken out and the rest laid out as inference lays it out, so that infill is learned.

What is before, in and after the gap is tokenised each for itself, as in use, so that tokens are torn as there. Rows are
in the order of `types.Request.context`; the gap ends with an end token and is filled with it to the edge of its block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.text import Tokenizer
from unmask.training.gap_spans import draw
from unmask.training.sample import Sample, Stream
from unmask.training.settings import TrainConfig
from unmask.types import Ids, Request, Traits

# Special tokens that end a gap or stand between files, by family, the likeliest first.
END_NAMES = ("<|fim_pad|>", "<fim_pad>", "<|file_sep|>", "<file_sep>", "<|file_separator|>")
BYTES_PER_TOKEN = 4  # of code and English, about; how long parts are drawn
DRAWS = 4


def end_of_gap(tokenizer: Tokenizer, mask_id: int) -> int:
    """The token that ends a gap: a special token of the tokenizer that ordinary text never holds, else its end token.

    SmolLM2: <file_sep>. ValueError where there is neither.
    """
    named = [token for name in END_NAMES if (token := tokenizer.token_id(name)) in tokenizer.special_ids]
    for token in (*named, *tokenizer.eos_ids):
        if token is not None and token != mask_id:
            return token
    raise ValueError("the tokenizer has no special token to end a gap with: name one with --set infill.end_id=ID")


def resolved(config: TrainConfig, tokenizer: Tokenizer, mask_id: int) -> TrainConfig:
    """The settings with the token that ends gaps, where there are any. ValueError for one that cannot."""
    if not config.infill.share:
        return config
    end = end_of_gap(tokenizer, mask_id) if config.infill.end_id is None else config.infill.end_id
    if not 0 <= end < tokenizer.vocab_size or end == mask_id:
        raise ValueError(f"infill.end_id must be a token of the vocabulary other than the mask ({mask_id}), got {end}")
    return replace(config, infill=replace(config.infill, end_id=end))


@dataclass(frozen=True, slots=True)
class Gap:
    """A text in three parts, each tokenised for itself. closed: nothing follows, the document ends with the suffix."""

    prefix: Ids
    part: Ids
    suffix: Ids
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """Clean rows of one document, as in `Sample`."""

    ids: NDArray[np.int64]
    position: NDArray[np.int64]
    supervised: NDArray[np.bool_]
    gap: NDArray[np.bool_]


class GapStream:
    """A `Stream` whose samples have, by chance, gaps in their texts: a pure function of (seed, sample)."""

    def __init__(self, stream: Stream, tokenizer: Tokenizer, config: TrainConfig) -> None:
        self.stream, self.tokenizer, self.config = stream, tokenizer, config

    def next_samples(self, n: int) -> list[Sample]:
        return [self.changed(sample) for sample in self.stream.next_samples(n)]

    def changed(self, sample: Sample) -> Sample:
        chance = np.random.default_rng((self.config.seed, sample.index, 0, 0)).random()
        return gapped(sample, self.tokenizer, self.config) if chance < self.config.infill.share else sample

    def state(self) -> dict[str, Any]:
        return self.stream.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.stream.restore(state)


def gapped(sample: Sample, tokenizer: Tokenizer, config: TrainConfig) -> Sample:
    """The sample with a gap in each of its texts that has room for one; chats stay as they are. No text grows."""
    rng = np.random.default_rng((config.seed, sample.index, 0, 1))
    made = list[Rows]()
    for number in range(int(sample.document.max()) + 1):
        own = sample.document == number
        ids, supervised = sample.ids[own], sample.supervised[own]
        gap = find_gap(ids, supervised, tokenizer, config, rng)
        room = int(rng.integers(blocks_for(gap, config), config.infill.room + 1)) if gap else 0
        rows = lay_gap(gap, len(ids), room, config) if gap else None
        made.append(rows or Rows(ids, sample.position[own], supervised, np.zeros(len(ids), dtype=np.bool_)))
    return pack(sample.index, made, len(sample.ids))


def pack(index: int, made: Sequence[Rows], length: int) -> Sample:
    """One sample of `length` rows from the rows of its documents; padding at its end."""
    sizes = [len(rows.ids) for rows in made]

    def joined(parts: Sequence[NDArray[Any]], padding: int, kind: type[np.generic]) -> NDArray[Any]:
        return np.concatenate([*parts, np.full(length - sum(sizes), padding)]).astype(kind)

    return Sample(
        index,
        ids=joined([rows.ids for rows in made], 0, np.int64),
        document=joined([np.repeat(np.arange(len(made)), sizes)], -1, np.int32),
        position=joined([rows.position for rows in made], 0, np.int64),
        supervised=joined([rows.supervised for rows in made], 0, np.bool_),
        gap=joined([rows.gap for rows in made], 0, np.bool_),
    )


def blocks_for(gap: Gap, config: TrainConfig) -> int:
    """Blocks that the part and its end token need."""
    return len(gap.part) // config.blocks.size + 1


def find_gap(
    ids: NDArray[np.int64],
    supervised: NDArray[np.bool_],
    tokenizer: Tokenizer,
    config: TrainConfig,
    rng: np.random.Generator,
) -> Gap | None:
    """A gap drawn in a piece of a document; None for a chat, and where no part was found."""
    bos = int(len(ids) > 0 and not supervised[0] and ids[0] == tokenizer.bos_id)
    if not supervised[bos:].all():
        return None
    ended = np.isin(ids[bos:], tokenizer.eos_ids)
    closed = bool(ended.any())
    text = text_of(ids[bos:][: int(np.argmax(ended)) if closed else len(ids)].tolist(), tokenizer)
    kinds, longest = config.infill.spans, config.gap_room - 1
    kind = kinds[int(rng.integers(len(kinds)))]
    for _ in range(DRAWS if text else 0):
        found = draw(text, kind, longest * BYTES_PER_TOKEN, rng)
        if found is None:
            continue
        start, end = found
        try:
            before, part, after = (tokenizer.encode(t) for t in (text[:start], text[start:end], text[end:]))
        except ValueError:  # it spells a special token
            return None
        if len(part) <= longest and (after or closed):
            return Gap((*ids[:bos].tolist(), *before), part, after, closed)
    return None


def text_of(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of a piece of a document, without half a character at either end; nothing where it is no text."""
    data = b"".join(tokenizer.token_bytes(token) for token in ids)
    first = next((i for i in range(min(4, len(data))) if data[i] & 0xC0 != 0x80), 0)
    data = data[first:]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        text = data[: error.start].decode() if error.end == len(data) else ""
    return text.removeprefix(" ") if tokenizer.spelling.artificial_space else text


def lay_gap(gap: Gap, rows: int, blocks_apart: int, config: TrainConfig) -> Rows | None:
    """The clean rows of a gap, at most `rows` of them: prefix and suffix lose what lies furthest from it.

    blocks_apart: its room. None where too little of one side would be left.
    """
    size, end = config.blocks.size, config.infill.end_id
    assert end is not None
    prefix, suffix, blocks = gap.prefix, gap.suffix, blocks_for(gap, config)
    over = len(prefix) + len(suffix) + blocks * size - rows
    if over > 0:
        less = round(over * len(prefix) / (len(prefix) + len(suffix)))
        prefix, suffix = prefix[less:], suffix[: len(suffix) - (over - less)]
    if len(prefix) <= config.blocks.skip or not (suffix or gap.closed):
        return None
    room = blocks_apart * size
    # What inference is asked for such a gap decides the order of rows and their positions.
    request = Request(prefix, room, traits=Traits(gap_end=end, gap_room=room), suffix=suffix, room=room)
    context, filled = request.context, (*gap.part, *(end,) * (blocks * size - len(gap.part)))
    row = np.arange(len(context) + len(filled))
    return Rows(
        ids=np.array([*context, *filled], dtype=np.int64),
        position=np.array([request.position(r) for r in row.tolist()], dtype=np.int64),
        supervised=row <= len(context) + len(gap.part),  # up to the first end token; the others only fill
        gap=row >= len(context),
    )
