"""Suite `diffusion`: a tri-mode model on held-out text, and short greedy generations in each of its modes.

The figures are those of training (`unmask.training.measure`), so a finished model is compared with its own run. They
follow the checkpoint's traits: an adapter acts on the rows that it was trained for, a joint model has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unmask.evaluation.record import adapter_of, bare, circumstances
from unmask.evaluation.suite import Job, Progress, Suite
from unmask.evaluation.tables import tables
from unmask.lm import LM, Generation
from unmask.training.measure import SEED, measure
from unmask.training.packing import Data, held_out
from unmask.training.perplexity import ar_nll
from unmask.training.sample import Sample
from unmask.training.settings import Adapter, Blocks, TrainConfig
from unmask.types import Traits

# Options of `LM.generate` by the name that the table shows. What linearspec copies is no merit of the drafter's.
MODES: dict[str, dict[str, Any]] = {
    "ar": {"mode": "ar"},
    "fastdiffuser": {"mode": "fastdiffuser"},
    "linearspec": {"mode": "self-speculation", "spec_variant": "linearspec", "lookup": 0},
    "quadspec": {"mode": "self-speculation", "spec_variant": "quadspec"},
    "adaptivespec": {"mode": "self-speculation", "spec_variant": "adaptivespec"},
}


@dataclass(frozen=True, slots=True)
class Settings:
    """samples: held-out sequences of `length` tokens. points: noise levels per block for the NELBO. batch: samples of a
    forward. prompts: texts continued in every mode, from their first `prompt_tokens` tokens by `max_tokens`.
    data: held-out text, see `evaluate`. against: the name of the model that this one was made from."""

    data: tuple[str, ...] = ("starter",)
    against: str | None = None
    samples: int = 32
    length: int = 256
    points: int = 8
    batch: int = 4
    prompts: int = 4
    prompt_tokens: int = 64
    max_tokens: int = 64

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "prompts" else 1
            if isinstance(value, int) and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.length < 2:
            raise ValueError(f"length must be at least 2, got {self.length}")


def run(job: Job) -> dict[str, Any]:
    """All numbers of the suite, and what they were measured on; see `evaluate`."""
    settings: Settings = job.settings
    source = job.load(settings.against) if settings.against else None
    found = evaluate(job.lm, settings.data, settings, source, job.progress)
    return {**found, "adapter": adapter_of(job.lm, job.adapter), **circumstances(job.lm)}


def evaluate(
    lm: LM,
    sources: Sequence[str],
    settings: Settings,
    against: LM | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """All numbers of the suite, as plain data.

    sources: see `training.data.open_data`; of a folder with a heldout.jsonl that file is taken. against: the model that
    this one was made from. figures: `training.measure.measure`, with bits_per_byte; ar_change: how much higher the AR
    perplexity is than that of `against` (0.01 is 1 %), 0 for an adapter on a frozen base, None where nothing is known.
    generation: see `generations`.
    Raises ValueError for a model without a mask token or of a kind that the figures do not describe, and for data
    without a sample.
    """
    mask_id = mask_of(lm.traits)
    if against is not None and against.config.vocab_size != lm.config.vocab_size:
        raise ValueError(
            f"{against.name} has a vocabulary of {against.config.vocab_size} tokens and {lm.name} one of"
            f" {lm.config.vocab_size}: their perplexities cannot be compared"
        )
    samples = held_out(Data(tuple(sources), held_out=tuple(sources)), lm.tokenizer, settings.length, settings.samples)
    if not samples:
        raise ValueError(f"no held-out samples in {', '.join(sources)}")
    figures = figures_of(lm, samples, settings, mask_id, progress)
    figures["bits_per_byte"] = figures["ar_nll"] / math.log(2) / bytes_per_target(lm, samples, mask_id)
    before = None
    if against is not None:
        before = ar_nll(against.decoder, Watched(samples, "source model", 1, progress), mask_id, settings.batch)
    frozen = lm.traits.draft_adapter is not None and lm.traits.denoise_adapter is not None
    change = math.expm1(figures["ar_nll"] - before) if before is not None else 0.0 if frozen else None
    return {
        "suite": "diffusion",
        "model": bare(lm.name),
        "traits": asdict(lm.traits),
        "settings": {**asdict(settings), "data": [bare(source) for source in sources], "noise_seed": SEED}
        | {"dtype": dtype_of(lm), "exactness": lm.engine.config.exactness},
        "samples": len(samples),
        "tokens": int(sum((sample.document >= 0).sum() for sample in samples)),
        "figures": figures,
        "against": None if against is None else {"model": bare(against.name), "ar_nll": before},
        "ar_change": change,
        "generation": list(generations(lm, prompts_of(samples, settings), settings, progress)),
    }


def mask_of(traits: Traits) -> int:
    if traits.mask_id is None:
        raise ValueError("the model names no mask token, so it has no diffusion side to measure: give mask_id")
    if traits.shift or traits.context == "block":
        raise ValueError("the diffusion suite measures blocks that see causal rows and predict their own tokens only")
    return traits.mask_id


def dtype_of(lm: LM) -> str:
    return str(lm.decoder.model.embed_tokens.weight.dtype).removeprefix("torch.")


def config_of(traits: Traits, adapter: str | None, batch: int) -> TrainConfig:
    """What `measure` reads of a run's settings: blocks, seed placement, and which adapter acts on noisy rows."""
    return TrainConfig(
        method="joint" if adapter is None else "adapter",
        seed_placement=traits.seed,
        batch=batch,
        steps=1,
        blocks=Blocks(size=traits.block_size, draft_size=traits.draft_block_size),
        adapter=Adapter() if adapter is None else Adapter(name=adapter),
    )


def figures_of(
    lm: LM, samples: Sequence[Sample], settings: Settings, mask_id: int, progress: Progress
) -> dict[str, Any]:
    """`measure`; twice where drafts have an adapter of their own, the drafts' figures from the second time."""
    found, traits = dict[str, Any](), lm.traits
    for adapter in dict.fromkeys((traits.denoise_adapter, traits.draft_adapter)):
        config = config_of(traits, adapter, settings.batch)
        what = "held-out text" if adapter == traits.denoise_adapter else "held-out text, drafts"
        watched = Watched(samples, what, 2, progress)
        new = measure(lm.decoder, watched, config, mask_id, points=settings.points)
        drafts = ("acceptance", "accepted", "accepted_run", "tokens_per_round")
        found = {**found, **{key: new[key] for key in drafts}} if found else new
    return {key: value for key, value in found.items() if key != "score"}


class Watched(Sequence[Sample]):
    """Samples that tell how far they have been read, by slices and `times` from start to end."""

    def __init__(self, samples: Sequence[Sample], what: str, times: int, progress: Progress) -> None:
        self.samples, self.what, self.total, self.progress = samples, what, len(samples) * times, progress
        self.read = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        found = self.samples[index]
        self.progress(self.what, self.read, self.total)
        self.read += len(found) if isinstance(index, slice) else 1
        return found


def bytes_per_target(lm: LM, samples: Sequence[Sample], mask_id: int) -> float:
    """Mean bytes of the tokens that AR predicts; 1 where they are all empty."""
    sizes = list[int]()
    for sample in samples:
        target = sample.supervised & (sample.position > 0) & (sample.document >= 0) & (sample.ids != mask_id)
        sizes += [len(lm.tokenizer.token_bytes(token)) for token in sample.ids[target].tolist()]
    return float(np.mean(sizes)) if sum(sizes) else 1.0


def prompts_of(samples: Sequence[Sample], settings: Settings) -> list[list[int]]:
    """The first tokens of the first document of samples that have enough of it."""
    firsts = [sample.ids[sample.document == 0].tolist() for sample in samples]
    longest = sorted(firsts, key=len, reverse=True)[: settings.prompts]
    return [ids[: max(1, min(settings.prompt_tokens, len(ids) // 2))] for ids in longest if ids]


def generations(
    lm: LM, prompts: Sequence[Sequence[int]], settings: Settings, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Per mode, over all prompts, greedily and one at a time: tokens per forward after prefill (every forward counted),
    tokens per round (None where there are none), tokens a second with the prefill in it, and the share of prompts that
    got the very ids of AR (which lossless modes owe up to rounding; fastdiffuser does not)."""
    own = list[Generation]()
    for name, options in MODES.items() if prompts else ():
        done = list[Generation]()
        for number, prompt in enumerate(prompts):
            progress(f"generating, {name}", number, len(prompts))
            done.append(lm.generate(list(prompt), max_tokens=settings.max_tokens, ignore_eos=True, **options))
        own = own or done
        stats = [generation.stats for generation in done]
        later = sum(one.tokens - one.prefill_tokens for one in stats)
        nfe, rounds = sum(one.nfe for one in stats), sum(one.rounds for one in stats)
        tokens, seconds = sum(one.tokens for one in stats), sum(one.seconds for one in stats)
        same = sum(a.token_ids == b.token_ids for a, b in zip(own, done, strict=True))
        yield {
            "mode": name,
            "tokens": tokens,
            "nfe": nfe,
            "tpf": later / nfe if nfe else 0.0,
            "acceptance_length": later / rounds if rounds else None,
            "tokens_per_second": tokens / seconds if seconds > 0 else 0.0,
            "same_as_ar": same / len(prompts),
        }


SUITE = Suite(Settings, run, tables)
