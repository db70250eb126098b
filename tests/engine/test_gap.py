"""Gaps with their suffix in view: every mode against a plain loop without cache, alone and among others."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.engine import tiny
from unmask import visibility
from unmask.engine.scheduler import row_keys
from unmask.model.attention import dense_attend
from unmask.model.decoder import Batch
from unmask.types import Diffusion, Ids, Request, Sampling, Span, Speculation, Traits

END = 7
TRAITS = Traits(
    tiny.MASK, True, draft_adapter="draft", denoise_adapter="draft", gap_end=END, gap_room=32, gap_causal=True
)
SPECULATIVE = ["linearspec", "quadspec", "adaptivespec", "auto"]
FILLER = replace(TRAITS, gap_adapter="linked")
ids = st.integers(0, tiny.MASK - 1)


def gap(prompt: Ids, suffix: Ids, max_tokens: int, **more: Any) -> Request:
    given: dict[str, Any] = {"traits": TRAITS, "room": 32, "stop_ids": (END,), **more}
    return Request(prompt, max_tokens, suffix=suffix, **given)


@st.composite
def gaps(draw: st.DrawFn, most: int = 12) -> Request:
    return gap(
        tuple(draw(st.lists(ids, min_size=1, max_size=9))),
        tuple(draw(st.lists(ids, max_size=9))),
        draw(st.integers(1, most)),
        room=draw(st.sampled_from([12, 16, 32])),
        prefill_chunk=draw(st.sampled_from([1, 3, 256])),
        sampling=draw(st.sampled_from([Sampling(), Sampling(temperature=1.0, seed=5)])),
        traits=draw(st.sampled_from([TRAITS, FILLER])),
    )


def hidden(spans: tuple[Span, ...]) -> Tensor:
    """Rows of the last span, by the dense reference, everything written anew."""
    starts = visibility.offsets(spans)
    position = [span.start + i for span in spans for i in range(len(span.tokens))]
    tokens = [token for span in spans for token in span.tokens]
    acts, unknown = dict[str, list[int]](), dict[str, list[int]]()
    for start, span in zip(starts, spans, strict=False):
        if span.adapter:
            acts.setdefault(span.adapter, []).extend(range(start, start + len(span.tokens)))
            unknown.setdefault(span.adapter, []).extend(start + i for i, masked in enumerate(span.masked) if masked)
    gates, masks = ({name: torch.tensor(rows) for name, rows in of.items() if rows} for of in (acts, unknown))
    batch = Batch(torch.tensor(tokens), torch.tensor(position), max(position), gates, masks)
    with torch.no_grad():
        model = tiny.shared()
        return model.logits(model(batch, dense_attend(visibility.mask(spans)))[starts[-2] :])


def clean(request: Request, output: Ids) -> tuple[Span, ...]:
    """Prefix but for its last token; suffix; that token and the output: written down again, not taken from the code."""
    n, s = len(request.prompt), len(request.suffix)
    acts: dict[str, Any] = {"adapter": request.traits.gap_adapter}
    if not s:
        return (Span(request.prompt + output, 0, **acts),)
    spans = [Span(request.prompt[:-1], 0, **acts)] if n > 1 else []
    before = [(0, n - 1)] if n > 1 else []
    spans.append(Span(request.suffix, n + request.room, sees=tuple(before), **acts))
    spans.append(Span((request.prompt[-1], *output), n - 1, sees=(*before, (len(before), s)), **acts))
    return tuple(spans)


def by_ar(request: Request) -> Ids:
    output: Ids = ()
    while len(output) < request.max_tokens and (not output or output[-1] != END):
        output += (int(hidden(clean(request, output))[-1].argmax()),)
    return output


def by_blocks(request: Request) -> Ids:
    """Greedy fastdiffuser at threshold 0.5: whole blocks; where the budget ends inside one, its end is known."""
    size, output = 4, Ids()
    while len(output) < request.max_tokens and END not in output:
        left = request.max_tokens - len(output)
        block: list[int | None] = [None if i < left else END for i in range(size)]
        while True:
            ends = [i for i, token in enumerate(block) if token == END]
            open_ = [i for i, token in enumerate(block) if token is None and not (ends and i > ends[0])]
            if not open_:
                break
            shown = [END if ends and i > ends[0] else token for i, token in enumerate(block)]
            before = clean(request, output)
            span = Span(
                tuple(tiny.MASK if token is None else token for token in shown),
                len(request.prompt) + len(output),
                True,
                tuple((i, len(s.tokens)) for i, s in enumerate(before)),
                "draft",
                tuple(token is None for token in shown),
            )
            logits = hidden((*before, span))
            logits[:, tiny.MASK] = -torch.inf
            best = {i: (float(logits[i].softmax(-1).max()), int(logits[i].argmax())) for i in open_}
            sure = [i for i in open_ if best[i][0] >= 0.5] or [max(open_, key=lambda i: best[i][0])]
            for i in sure:
                block[i] = best[i][1]
        first = next((i for i, token in enumerate(block) if token == END), size - 1)
        output += tuple(token for token in block[: first + 1] if token is not None)
    return output[: request.max_tokens]


def way(request: Request, strategy: str, size: int = 4) -> Request:
    own = Diffusion(size, 0.5) if strategy == "fastdiffuser" else Speculation(size) if strategy != "ar" else None
    return replace(request, strategy=strategy, settings=own)


@given(gaps())
@settings(max_examples=25)
def test_ar_fills_a_gap_as_a_plain_loop_does(request: Request) -> None:
    request = replace(request, sampling=Sampling())
    assert tiny.alone(way(request, "ar")) == by_ar(request)


@given(gaps())
@settings(max_examples=25)
def test_fastdiffuser_fills_a_gap_as_a_plain_loop_does(request: Request) -> None:
    request = replace(request, sampling=Sampling())
    assert tiny.alone(way(request, "fastdiffuser")) == by_blocks(request)


@given(gaps(), st.sampled_from(SPECULATIVE), st.sampled_from(["block", "causal", "copy"]), st.integers(1, 6))
@settings(max_examples=40)
def test_self_speculation_in_a_gap_is_ar(request: Request, strategy: str, seed: Any, size: int) -> None:
    request = replace(request, traits=replace(request.traits, seed=seed))
    assert tiny.alone(way(request, strategy, size)) == tiny.alone(way(request, "ar"))


def test_the_suffix_and_its_distance_matter() -> None:
    one = way(gap((1, 2, 3), (4, 5, 6), 8), "ar")
    others = [one, replace(one, suffix=(4, 5, 9)), replace(one, room=16), replace(one, suffix=(), room=32)]
    others.append(replace(one, traits=FILLER))
    assert len({tiny.alone(other) for other in others}) == 5
    assert tiny.alone(replace(one, suffix=())) == tiny.alone(replace(one, suffix=(), room=0))


MIX = [
    way(gap((1, 2, 3, 4, 5, 6, 7, 8, 9), (4, 5, 6, 9, 9, 3), 9), "ar"),
    way(gap((1, 2, 3, 4, 5, 6, 7, 8, 9), (4, 5, 6, 9, 9, 3), 9, room=16), "ar"),
    way(gap((1, 2, 3, 4, 5, 6, 7, 8, 9), (4, 5, 6, 9), 9), "fastdiffuser"),
    way(Request((1, 2, 3, 4, 5, 6, 7, 8, 4, 5, 6, 9, 9), 9, traits=TRAITS), "quadspec"),
    way(Request((1, 2, 3, 4, 5, 6, 7, 8, 9, 4, 5, 6, 9, 9, 3), 9, traits=TRAITS), "ar"),
    way(gap((1, 2, 3, 4, 5, 6, 7, 8, 9, 10), (4, 5, 6, 9, 9, 3), 9), "adaptivespec"),
    way(gap((1, 2, 3, 4, 5, 6, 7, 8, 9), (4, 5, 6, 9, 9, 3), 9, traits=FILLER), "ar"),
    way(gap((1, 2, 3, 4, 5, 6, 7, 8, 9), (4, 5, 6, 9, 9, 3), 9, traits=FILLER), "quadspec"),
    way(Request((1, 2, 3, 4, 5, 6, 7, 8, 9, 4, 5, 6, 9, 9, 3), 9, traits=FILLER), "ar"),
]


@pytest.mark.parametrize("pages", [64, 33])
def test_gaps_share_pages_with_what_is_really_the_same(pages: int) -> None:
    """Plain requests and gaps with equal ids at other places, together and one after another, on few pages too."""
    expected = [tiny.alone(request) for request in MIX]
    engine = tiny.engine(pages=pages)
    for _ in range(2):
        numbers = [engine.submit(request) for request in MIX]
        found = dict[int, Ids]()
        while engine.busy:
            for update in engine.step():
                found[update.id] = update.state.output
        assert [found[number] for number in numbers] == expected
        engine.check()
    assert engine.pages.in_use == 0
    for request, output in zip(MIX, expected, strict=True):
        assert engine.generate(request) == output


@given(gaps(), gaps())
def test_keys_are_equal_where_rows_are(one: Request, other: Request) -> None:
    """As far as the keys of two requests agree, their rows have equal ids at equal places."""
    a, b = (row_keys(request, request.context) for request in (one, other))
    same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))
    rows = [[(token, r.position(i)) for i, token in enumerate(r.context)] for r in (one, other)]
    assert rows[0][:same] == rows[1][:same]
    prefix = min(len(one.prompt), len(other.prompt)) - 1
    if one.prompt[:prefix] == other.prompt[:prefix]:
        assert same >= min(prefix, len(a), len(b))


@given(gaps())
def test_rows_and_places(request: Request) -> None:
    places = [request.position(row) for row in range(len(request.context) + request.room)]
    n = len(request.prompt)
    assert len(set(places)) == len(places)
    text = dict(zip(places, request.context, strict=False))
    assert tuple(text[i] for i in range(n)) == request.prompt
    assert tuple(text[n + request.room + i] for i in range(len(request.suffix))) == request.suffix
    assert places[len(request.context) :] == list(range(n, n + request.room))
    assert [request.given(place) for place in places] == [True] * len(request.context) + [False] * request.room
    assert list(request.jumps) == [i for i in range(1, len(places)) if places[i] != places[i - 1] + 1] or n == 1


def test_the_last_block_of_a_gap_is_whole_and_has_its_pages() -> None:
    request = way(gap((1, 2, 3), (4, 5), 1, room=16), "fastdiffuser", 16)
    engine = tiny.engine(pages=6)  # 5 rows of context and a block of 16, of which one token is wanted
    assert engine.generate(request) == tiny.alone(request)
    with pytest.raises(ValueError, match="rows of key/value memory"):
        tiny.engine(pages=5).submit(request)


def test_what_cannot_be_a_gap_is_refused() -> None:
    for more in ({"room": 3}, {"room": 0}, {"traits": Traits(tiny.MASK)}):
        with pytest.raises(ValueError, match="room must be"):
            gap((1, 2), (3,), 4, **more)
    with pytest.raises(ValueError, match="gap_adapter must be"):
        replace(FILLER, gap_causal=False)
    for wrong in ({"gap_room": 0}, {"shift": True}, {"context": "block"}):
        with pytest.raises(ValueError, match="gap_end must be"):
            replace(TRAITS, **wrong)
    engine = tiny.engine()
    with pytest.raises(ValueError, match="prompt, gap and suffix"):
        engine.submit(gap((1, 2), (3,) * 480, 4))
    with pytest.raises(ValueError, match="token id 99 is outside"):
        engine.submit(gap((1, 2), (99,), 4))


def test_penalties_count_the_suffix_as_given() -> None:
    """A presence penalty is for what was written, not for what stands after the gap."""
    one = gap((1, 2, 3), tuple(range(tiny.MASK)), 6, sampling=Sampling(presence_penalty=50.0))
    assert tiny.alone(way(one, "ar"))[0] == tiny.alone(way(replace(one, sampling=Sampling()), "ar"))[0]
    output = tiny.alone(way(one, "ar"))
    assert len(set(output)) == len(output)
    np.testing.assert_equal(tiny.alone(way(one, "linearspec")), output)
