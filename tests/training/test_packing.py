"""Packing: nothing lost, nothing twice, answers marked exactly, and a cursor that can stop anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.text.vocabularies import PIECES, byte_level_core
from unmask.text import CHATML, ChatTemplate, Tokenizer, render_chat
from unmask.training.data import Document, Streamed
from unmask.training.packing import Data, PackedStream, from_listing, from_stream, held_out, open_stream
from unmask.training.sample import Sample
from unmask.training.tokenise import Encoder, chat_spans, shelve

CORE = byte_level_core()
END = int(CORE.token_to_id("<|im_end|>") or 0)
TOKENIZER = Tokenizer(CORE, {"eos_token": "<|im_end|>"}, eos_ids=(END,), chat_template=CHATML)
ENCODER = Encoder(TOKENIZER)


class Given:
    """A listing of documents in memory."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = list(documents)

    def __len__(self) -> int:
        return len(self.documents)

    def read(self, number: int) -> Document:
        return self.documents[number]

    def fingerprint(self) -> str:
        return str(self.documents)


def stream_of(documents: Sequence[Document], length: int, seed: int = 0, **options: Any) -> PackedStream:
    data = Data(("given",), **{"epochs": 1, **options})
    source = from_listing(Given(documents), ENCODER, seed, np.arange(len(documents)))
    return PackedStream(source, data, length, ENCODER.eos)


def chat(*turns: str) -> Document:
    roles = ("user", "assistant")
    return Document("x", messages=tuple({"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)))


def pieces(samples: Sequence[Sample]) -> Iterator[tuple[list[int], list[bool]]]:
    for sample in samples:
        for number in range(int(sample.document.max()) + 1):
            here = sample.document == number
            yield sample.ids[here].tolist(), sample.supervised[here].tolist()


def same(left: Sequence[Sample], right: Sequence[Sample]) -> bool:
    fields = ("index", "ids", "document", "position", "supervised")
    pairs = zip(left, right, strict=True)
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for a, b in pairs for name in fields)


CHATS = st.lists(st.text("ab the\n", max_size=12), min_size=2, max_size=5).map(lambda turns: chat(*turns))
MIXED = st.lists(st.one_of(st.text("ab the", max_size=40).map(lambda text: Document("x", text)), CHATS), max_size=14)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any), st.integers(2, 40), st.integers(0, 5))
def test_no_token_of_a_text_is_lost_or_moved(lengths: list[int], length: int, seed: int) -> None:
    alphabets = [[chr(33 + 7 * n + i) for i in range(7)] for n in range(len(lengths))]
    documents = [
        Document("x", "".join(letters[i % 7] for i in range(k))) for letters, k in zip(alphabets, lengths, strict=True)
    ]
    samples = stream_of(documents, length, seed, smallest=1, lookahead=3).next_samples(1000)
    packed = [id for ids, _ in pieces(samples) for id in ids]
    assert packed.count(END) == sum(map(bool, lengths))
    for letters, document in zip(alphabets, documents, strict=True):  # pieces of several may alternate
        own = {id for letter in letters for id in TOKENIZER.encode(letter)}
        assert [id for id in packed if id in own] == list(TOKENIZER.encode(document.text))
    assert len(packed) == sum(lengths) + packed.count(END)


@given(MIXED, st.integers(2, 64), st.sampled_from([1, 4, 8]))
def test_what_every_sample_promises(documents: list[Document], length: int, fill: int) -> None:
    if not any(len(tokens) for tokens in ENCODER.encode(documents)):
        return
    for number, sample in enumerate(stream_of(documents, length, fill=fill).next_samples(1000)):
        real = int((sample.document >= 0).sum())
        assert sample.index == number
        assert real > 0
        assert (sample.document[real:] == -1).all()
        assert not sample.supervised[real:].any()
        steps = np.diff(sample.document[:real], prepend=-1)
        assert set(steps.tolist()) <= {0, 1}
        starts = np.flatnonzero(steps)
        assert np.array_equal(sample.position[:real], np.arange(real) - starts[np.cumsum(steps) - 1])
        arrays = (sample.ids, sample.document, sample.position, sample.supervised)
        assert [str(array.dtype) for array in arrays] == ["int64", "int32", "int64", "bool"]


@settings(max_examples=60)
@given(MIXED.filter(len), st.integers(4, 48), st.lists(st.integers(1, 7), max_size=6), st.integers(1, 4), st.booleans())
def test_stopping_anywhere_changes_nothing(
    documents: list[Document], length: int, stops: list[int], lookahead: int, streamed: bool
) -> None:
    if not any(len(tokens) for tokens in ENCODER.encode(documents)):
        return

    def fresh() -> PackedStream:
        data = Data(("given",), epochs=2, lookahead=lookahead, fill=4, smallest=3)
        if streamed:
            source = from_stream(Streamed("given", lambda: iter(documents)), ENCODER, 5, buffer=3)
        else:
            source = from_listing(Given(documents), ENCODER, 5, np.arange(len(documents)))
        return PackedStream(source, data, length, END)

    whole = fresh().next_samples(10_000)
    stream, parts = fresh(), list[Sample]()
    for stop in stops:
        parts += stream.next_samples(stop)
        state = json.loads(json.dumps(stream.state()))
        stream = fresh()
        stream.restore(state)
    assert same(whole, parts + stream.next_samples(10_000))
    assert stream.next_samples(1) == []


def test_long_texts_take_turns() -> None:
    documents = [Document("x", chr(97 + n) * 50) for n in range(8)]
    samples = stream_of(documents, 10, lookahead=4).next_samples(8)
    assert len({int(sample.ids[0]) for sample in samples[:4]}) == 4


def test_epochs_have_their_own_orders() -> None:
    documents = [Document("x", f"{n:02d}" * 4) for n in range(20)]
    one, two = stream_of(documents, 9, epochs=None), stream_of(documents, 9, epochs=2)
    samples = two.next_samples(1000)
    first, second = samples[:20], samples[20:]
    assert not same(first, second)
    assert sorted(s.ids.tobytes() for s in first) == sorted(s.ids.tobytes() for s in second)
    assert same(samples, one.next_samples(40))


def test_another_run_is_not_resumed() -> None:
    documents = [Document("x", "abc")]
    state = stream_of(documents, 8).state()
    for other in (stream_of(documents, 9), stream_of(documents, 8, seed=1), stream_of([Document("x", "abd")], 8)):
        with pytest.raises(ValueError, match="the run to resume had other data"):
            other.restore(state)


def test_answers_alone_are_supervised() -> None:
    document = chat("hi there", "the answer", "more", "a\n")
    (ids, supervised), *rest = pieces(stream_of([document], 400).next_samples(9))
    assert not rest
    learnt = [id for id, flag in zip(ids, supervised, strict=True) if flag]
    assert TOKENIZER.decode(learnt, skip_special=False) == "the answer<|im_end|>a\n<|im_end|>"
    prompt = render_chat(ChatTemplate.of(TOKENIZER), document.messages[:1])
    assert ids[: supervised.index(True)] == list(TOKENIZER.encode(prompt, special=True))  # what the engine is fed
    assert ids[-1] == END  # what the template writes after the last answer is gone


def test_a_completion_alone_is_supervised() -> None:
    for prompt, completion, learnt in [
        ("ab", " the end", " the end"),
        ("ab ", "the end", " end"),
    ]:  # " the" is one token
        (ids, supervised), *_ = pieces(stream_of([Document("x", prompt, completion)], 64).next_samples(1))
        marked = [id for id, flag in zip(ids, supervised, strict=True) if flag]
        assert TOKENIZER.decode(marked, skip_special=False) == learnt + "<|im_end|>"


def test_sentencepiece_and_bos() -> None:
    encoder = Encoder(Tokenizer(PIECES.core, {"bos_token": "<s>", "eos_token": "</s>"}, eos_ids=(2,), add_bos=True))
    whole, prompted = encoder.encode([Document("x", "ab a"), Document("x", "ab", " a")])
    assert (whole >> 1).tolist() == [1, *PIECES.encode("ab a"), 2]
    assert (whole & 1).tolist() == [0] + [1] * (len(whole) - 1)
    assert (prompted >> 1).tolist() == (whole >> 1).tolist()
    assert PIECES.decode((prompted[(prompted & 1) == 1] >> 1).tolist(), continues=True) == " a"


def test_a_template_that_forgets() -> None:
    """Reasoning of earlier turns is dropped once the chat goes on, as Qwen's template does: only the last is exact."""
    source = (
        "{% for m in messages %}<{{ m.role }}>{% if loop.last %}{{ m.content }}"
        "{% else %}{{ m.content.split('|')[-1] }}{% endif %};{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    text, spans = chat_spans(ChatTemplate(source), chat("q", "think|a", "q2", "think|b").messages)
    assert [text[start:end] for start, end in spans] == ["think|b;"]
    with pytest.raises(ValueError, match="no answer that the template renders"):
        chat_spans(ChatTemplate(source), chat("q").messages)


def test_filling_to_the_edge_of_a_block() -> None:
    documents = [Document("x", "aaaaa")]
    (ids, supervised), *_ = pieces(stream_of(documents, 32, fill=4).next_samples(1))
    assert ids[-3:] == [END] * 3
    assert len(ids) == 8
    assert all(supervised)
    (ids, supervised), *_ = pieces(stream_of([chat("q", "aaaaa")], 64, fill=4).next_samples(1))
    assert sum(supervised) == 8  # counted from the start of the answer
    (ids, _), *_ = pieces(stream_of(documents, 7, fill=4).next_samples(1))
    assert len(ids) == 7  # or to the end of the sample
    with pytest.raises(ValueError, match="fill needs an end token"):
        PackedStream(stream_of(documents, 8).source, Data(("x",), fill=4), 8, None)


def test_chats_are_whole_where_a_sample_can_hold_them() -> None:
    documents = [chat("q" * (n % 7), "a" * (n % 11 + 1)) for n in range(60)]
    samples = stream_of(documents, 100).next_samples(1000)
    start = CORE.token_to_id("<|im_start|>")
    assert all(ids[0] == start and ids[-1] == END for ids, _ in pieces(samples))
    assert sum(1 for _ in pieces(samples)) == 60
    used = np.mean([float((sample.document >= 0).mean()) for sample in samples[:-1]])
    assert used > 0.75
    long = stream_of([chat("q", "a" * 300)], 100).next_samples(10)
    assert len(long) == 4


def test_data_with_nothing_in_it() -> None:
    with pytest.raises(ValueError, match="the corpus is empty"):
        stream_of([], 8).next_samples(1)
    with pytest.raises(ValueError, match="none of the 2 documents has anything"):
        stream_of([Document("x", ""), Document("x", "")], 8, epochs=None).next_samples(1)
    with pytest.raises(ValueError, match="x:7: message 0 has no content"):
        stream_of([Document("x:7", messages=({"role": "user"},))], 8).next_samples(1)
    with pytest.raises(ValueError, match=r"x:7: .*surrogate"):
        stream_of([Document("x:7", "\ud800")], 8).next_samples(1)


def test_a_shelf_gives_what_encoding_gives(tmp_path: Path) -> None:
    documents = [Document("x", "the " * n) for n in range(5)] + [chat("q", "a")]
    seen: list[tuple[int, int]] = []
    shelf = shelve(Given(documents), ENCODER, tmp_path, lambda *done: seen.append(done), batch=4)
    assert seen == [(4, 6), (6, 6)]
    for number, tokens in enumerate(ENCODER.encode(documents)):
        assert np.array_equal(shelf.read(number), tokens)
    again = shelve(Given(documents), ENCODER, tmp_path, lambda *done: pytest.fail("tokenised twice"))
    assert len(again) == 6
    assert len(shelve(Given([Document("x", "")]), ENCODER, tmp_path).read(0)) == 0
    numbers = np.arange(6)
    plain = from_listing(Given(documents), ENCODER, 1, numbers)
    kept = from_listing(Given(documents), ENCODER, 1, numbers, shelf)
    assert plain.fingerprint == kept.fingerprint  # a cache may come and go between two parts of a run
    for one, two in zip(plain.read(3, 2), kept.read(3, 2), strict=True):
        assert np.array_equal(one, two)


def test_held_out_data(tmp_path: Path) -> None:
    rows = [{"text": f"number {n} " * 5} for n in range(50)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data((str(file),), held_out_share=0.2, epochs=1)
    train = open_stream(data, TOKENIZER, 64, seed=3, cache=tmp_path / "cache").next_samples(1000)
    apart = held_out(data, TOKENIZER, 64, 1000)
    packed = [[id for ids, _ in pieces(samples) for id in ids] for samples in (train, apart)]
    named = [{n for n in range(50) if f"number {n} " in TOKENIZER.decode(ids)} for ids in packed]
    assert len(named[1]) == 10
    assert named[0] == set(range(50)) - named[1]
    assert same(apart, held_out(data, TOKENIZER, 64, 1000))
    assert len(held_out(data, TOKENIZER, 64, 2)) == 2
    assert held_out(Data((str(file),)), TOKENIZER, 64, 5) == []
    assert held_out(Data((str(file),), held_out=(str(file),)), TOKENIZER, 64, 5)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"fill": 0}, "fill"), ({"epochs": 0}, "epochs"), ({"held_out_share": 1.0}, "held_out_share")],
)
def test_settings_that_make_no_sense(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Data(("x",), **options)
