"""Random requests and scripts for the property tests of the strategies."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.decoding.scripted import Script
from unmask.types import Diffusion, Request, Sampling, Speculation, Traits

VOCAB = 9
MASK_INSIDE, MASK_OUTSIDE = 4, VOCAB

scripts = st.builds(
    Script, vocab=st.just(VOCAB), salt=st.integers(0, 99), agrees=st.sampled_from(["always", "never", "sometimes"])
)
probabilities = st.integers(0, 16).map(lambda n: n / 16)
block_sizes = st.integers(1, 32)


@st.composite
def limits(draw: st.DrawFn, most_tokens: int = 40) -> dict[str, Any]:
    """Prompt, limits and stop ids. Prompts may hold the mask id and stop ids."""
    max_tokens = draw(st.integers(1, most_tokens))
    return {
        "prompt": tuple(draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20))),
        "max_tokens": max_tokens,
        "min_tokens": draw(st.integers(0, max_tokens)),
        "stop_ids": tuple(draw(st.sets(st.integers(0, 3), max_size=2))),
        "prefill_chunk": draw(st.one_of(st.integers(1, 8), st.just(256))),
        "sampling": draw(st.sampled_from([Sampling(), Sampling(presence_penalty=1.0)])),
        "watch": draw(st.booleans()),
    }


def traits(**fixed: Any) -> st.SearchStrategy[Traits]:
    """Every checkpoint there is, but for the traits that are fixed."""
    fields: dict[str, st.SearchStrategy] = {
        "mask_id": st.sampled_from([MASK_INSIDE, MASK_OUTSIDE]),
        "seed": st.sampled_from(["block", "causal", "copy"]),
        "shift": st.booleans(),
        "draft_adapter": st.sampled_from([None, "drafter"]),
        "denoise_adapter": st.sampled_from([None, "denoiser"]),
    }
    fields |= {name: st.just(value) for name, value in fixed.items()}
    made = st.fixed_dictionaries(fields).map(
        lambda found: found | ({"shift": False} if found["seed"] == "causal" else {})
    )
    return made.map(lambda found: Traits(**found))


# Forward times that rise, fall, jump and stand still.
costs = st.dictionaries(st.integers(1, 300), st.floats(0.01, 100.0), max_size=5).map(
    lambda table: tuple(sorted(table.items()))
)


def speculations(**fixed: Any) -> st.SearchStrategy[Speculation]:
    fields: dict[str, st.SearchStrategy] = {
        "draft_block_size": block_sizes,
        "draft_threshold": st.sampled_from([0.0, 0.25, 1.0]),
        "alternatives": st.integers(0, 31),
        "costs": costs,
        "profile": st.lists(probabilities, max_size=4).map(tuple),
    }
    return st.builds(Speculation, **(fields | {name: st.just(value) for name, value in fixed.items()}))


diffusions = st.builds(
    Diffusion,
    block_size=block_sizes,
    confidence_threshold=st.one_of(st.none(), probabilities),
    steps=st.one_of(st.none(), st.integers(1, 40)),
    sampler=st.sampled_from(["confidence", "margin", "entropy"]),
    entropy_bound=probabilities,
    seed_first=st.booleans(),
    revision_threshold=st.one_of(st.none(), probabilities),
    max_revisions=st.integers(0, 3),
)


@st.composite
def speculative(draw: st.DrawFn, /, strategy: str, **fixed: Any) -> Request:
    return Request(**draw(limits()), strategy=strategy, settings=draw(speculations(**fixed)), traits=draw(traits()))


@st.composite
def diffusing(draw: st.DrawFn) -> Request:
    context = draw(st.sampled_from(["causal", "block"]))
    return Request(
        **draw(limits()), strategy="fastdiffuser", settings=draw(diffusions), traits=draw(traits(context=context))
    )
