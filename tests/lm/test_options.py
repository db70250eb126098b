"""Options become requests; what does not fit together is refused by name."""

from __future__ import annotations

import re
from typing import Any

import pytest

from unmask.lm.options import Options, default_mode, method_of, options_of, request_of
from unmask.types import Diffusion, Request, Speculation, Traits

TRAITS = Traits(mask_id=9, trained=True, block_size=32)


def request(traits: Traits = TRAITS, prompt: tuple[int, ...] = (1, 2), room: int = 100, **given: Any) -> Request:
    return request_of(prompt, options_of(given), traits, (7,), room)


def test_defaults() -> None:
    made = request()
    assert (made.strategy, made.stop_ids, made.sampling.temperature) == ("auto", (7,), 0.0)
    assert request(Traits(mask_id=9)).strategy == "ar"
    assert default_mode(Traits()) == "ar"


def test_max_tokens_is_what_the_context_leaves() -> None:
    assert request(room=50).max_tokens == 48
    assert request(room=5000).max_tokens == 256
    assert request(max_tokens=3).max_tokens == 3
    with pytest.raises(ValueError, match="the prompt has 2 tokens, but the context of 2"):
        request(room=2)


def test_every_mode_has_its_settings() -> None:
    assert request(mode="ar").settings is None
    assert request(mode="fastdiffuser").settings == Diffusion(block_size=32)
    assert request(mode="fastdiffuser", block_size=4, confidence_threshold=0.5, seed_first=True).settings == Diffusion(
        block_size=4, confidence_threshold=0.5, seed_first=True
    )
    assert request(mode="fastdiffuser", schedule=True).settings == Diffusion(block_size=32, confidence_threshold=None)
    made = request(mode="self-speculation")
    assert (made.strategy, made.settings) == ("adaptivespec", Speculation(draft_block_size=16))
    made = request(mode="self-speculation", spec_variant="quadspec")
    assert (made.strategy, made.settings) == ("quadspec", Speculation(draft_block_size=8))
    assert request(Traits(mask_id=9, block_size=4), mode="self-speculation").settings == Speculation(draft_block_size=4)


def test_stops_and_biases() -> None:
    assert options_of({"stop": "x"}).stop == ("x",)
    assert options_of({"stop": ["x", "y"]}).stop == ("x", "y")
    assert request(stop_token_ids=[3, 7]).stop_ids == (7, 3)
    assert request(ignore_eos=True).stop_ids == ()
    assert request(logit_bias={"5": 1, 4: -2.5}).sampling.logit_bias == ((4, -2.5), (5, 1.0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tempreature": 1}, "unknown option 'tempreature'; did you mean 'temperature'?"),
        ({"mode": "diffusion"}, "mode must be one of ar, fastdiffuser, self-speculation, auto, got 'diffusion'"),
        ({"mode": "self-speculation", "spec_variant": "x"}, "spec_variant must be one of linearspec"),
        ({"mode": "ar", "spec_variant": "linearspec"}, "spec_variant does not apply to mode 'ar'"),
        ({"mode": "ar", "steps": 3}, "steps does not apply to mode 'ar'"),
        ({"mode": "self-speculation", "block_size": 3}, "block_size does not apply to mode 'self-speculation'"),
        ({"mode": "fastdiffuser", "draft_block_size": 3}, "draft_block_size does not apply to mode 'fastdiffuser'"),
        ({"mode": "auto", "schedule": True}, "schedule does not apply to mode 'auto'"),
        ({"mode": "fastdiffuser", "schedule": True, "confidence_threshold": 0.5}, "leave confidence_threshold out"),
        ({"mode": "fastdiffuser", "block_size": 0}, "block_size must be at least 1, got 0"),
        ({"mode": "fastdiffuser", "confidence_threshold": 1.5}, "confidence_threshold must be between 0 and 1"),
        ({"temperature": -1}, "temperature must be 0 or more"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"logprobs": 21}, "logprobs must be between 0 and 20"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        request(**given)


def test_each_option_is_used() -> None:
    """No field of Options can be set without changing the request (or the stop strings, which the text side has)."""
    changed: dict[str, Any] = {
        "mode": "fastdiffuser",
        "spec_variant": "linearspec",
        "max_tokens": 5,
        "min_tokens": 2,
        "stop_token_ids": (3,),
        "ignore_eos": True,
        "logprobs": 2,
        "frames": True,
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "logit_bias": ((1, 2.0),),
        "seed": 4,
        "block_size": 5,
        "confidence_threshold": 0.25,
        "schedule": True,
        "steps": 2,
        "sampler": "margin",
        "entropy_bound": 0.7,
        "seed_first": True,
        "revision_threshold": 0.2,
        "max_revisions": 3,
        "draft_block_size": 3,
        "draft_threshold": 0.3,
        "alternatives": 1,
        "lookup": 4,
    }
    # A constraint needs the vocabulary: see test_constraints.
    assert changed.keys() | {"stop", "constraints", "constraint_refinement_rounds"} == set(Options.__dataclass_fields__)
    for name, value in changed.items():
        bases: list[dict[str, Any]] = [{"mode": "fastdiffuser"}, {"mode": "self-speculation"}]
        differs = False
        for base in bases:
            try:
                differs |= request(**base, **{name: value}) != request(**base) if name != "mode" else True
            except ValueError as error:
                assert "does not apply" in str(error)  # noqa: PT017  (refused in the other mode)
        assert differs, name


def test_method_of_an_ar_only_model() -> None:
    assert method_of(Options(), Traits()) == ("ar", None)
