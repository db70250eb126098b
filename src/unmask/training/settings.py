"""What a training run is made of: frozen, validated once, JSON in and out."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

# How a run is carried out, not what it is: these may change when it is resumed.
MANNER = ("attention", "activation_checkpointing", "shard", "save_every", "keep_last", "eval_every", "log_every")
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def require(fine: bool, name: str, value: object, allowed: str) -> None:
    if not fine:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    require(value in allowed, name, value, " or ".join(map(repr, allowed)))


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a document is cut into blocks, anchored near its start (at the start of each answer, for chats).

    skip: so many tokens at the start of a document are in no block. With less context than a few tokens, pretrained
    models miss their attention sink, and on SmolLM2 such blocks have up to 500 times the gradient of others (measured).
    size: tokens of a block that is partially masked; draft_size: of one that drafts (None: the same).
    full_share: share of drafting blocks: all masked, but for the seed where it is part of the block.
    first_share: share of documents whose first block has a random length, so that the grid shifts.
    random_sizes, random_share: so many samples take a size from the list instead.
    curriculum: (first sample, size), ascending: from that sample number on, blocks have at most this size.
    """

    size: int = 16
    draft_size: int | None = None
    full_share: float = 0.25
    first_share: float = 0.2
    random_sizes: tuple[int, ...] = ()
    random_share: float = 0.0
    curriculum: tuple[tuple[int, int], ...] = ()
    skip: int = 1

    def __post_init__(self) -> None:
        require(self.size >= 1, "block size", self.size, "at least 1")
        require(self.skip >= 1, "skip", self.skip, "at least 1")
        require(self.draft_size is None or self.draft_size >= 2, "draft_size", self.draft_size, "at least 2")
        for name in ("full_share", "first_share", "random_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        require(all(size >= 1 for size in self.random_sizes), "random_sizes", self.random_sizes, "sizes of at least 1")
        require(bool(self.random_sizes) or not self.random_share, "random_share", self.random_share, "0 without sizes")
        starts = [start for start, _ in self.curriculum]
        fine = starts == sorted(set(starts)) and all(start >= 0 and size >= 1 for start, size in self.curriculum)
        require(fine, "curriculum", self.curriculum, "pairs (first sample, block size) in ascending order")


@dataclass(frozen=True, slots=True)
class Noise:
    """How a partially masked block loses its tokens.

    law: "uniform"; "exponential": later positions first, the less masked the more so (arXiv 2512.14067; half_life: the
    part of the block over which the weight doubles as t -> 0); "linear": the article's fixed rates
    base_rate * (1 + position_scale * i / (block - 1)), each token for itself, without a t.
    mode: "exact" masks round(t * size) tokens, "bernoulli" each one with probability t.
    low, high: t is uniform between these, stratified over the blocks of a sample. weighted: loss weight 1 / t, at most
    weight_cap; else 1. complementary: a second copy of the block masks the other tokens.
    """

    law: Literal["uniform", "exponential", "linear"] = "exponential"
    half_life: float = 0.1
    base_rate: float = 0.15
    position_scale: float = 2.0
    mode: Literal["exact", "bernoulli"] = "exact"
    low: float = 1e-3
    high: float = 1.0
    weighted: bool = True
    weight_cap: float = 10.0
    complementary: bool = False

    def __post_init__(self) -> None:
        one_of("law", self.law, ("uniform", "exponential", "linear"))
        one_of("mode", self.mode, ("exact", "bernoulli"))
        require(0 < self.half_life <= 1, "half_life", self.half_life, "above 0 and at most 1")
        require(0 < self.base_rate <= 1, "base_rate", self.base_rate, "above 0 and at most 1")
        require(self.position_scale >= 0, "position_scale", self.position_scale, "0 or more")
        require(0 < self.low <= self.high <= 1, "(low, high)", (self.low, self.high), "0 < low <= high <= 1")
        require(self.weight_cap >= 1, "weight_cap", self.weight_cap, "at least 1")
        allowed = "'exact' with law 'exponential'"
        require(self.law != "exponential" or self.mode == "exact", "mode", self.mode, allowed)


@dataclass(frozen=True, slots=True)
class Loss:
    """What is minimised.

    joint: form "nld": L_AR + alpha * L_diff (arXiv 2607.05722); "article": alpha * L_AR + (1 - alpha) * L_diff. Both
    are means over the tokens that may carry loss, masked or not. ramp: the share of the run over which the weight of
    L_diff rises from 0.
    adapter and drafter: drafting blocks learn from `draft_target`: the "teacher"'s distribution (the model's own, one
    clean row earlier) or the "label"; partially masked ones from `denoise_target`.
    denoise: weight of partially masked blocks beside drafting ones.
    slot_decay: weight of mask slot j of a drafting block is slot_decay ** (j - 1). first_error: only slots up to and
    including the first wrong one count (arXiv 2607.01893).
    lk: the LK hybrid of arXiv 2602.23881 instead of the plain teacher loss, with its eta, temperature and top_k, plus
    cross-entropy of equal weight.
    chunk: rows whose logits exist at a time.
    """

    alpha: float = 0.3
    form: Literal["nld", "article"] = "nld"
    ramp: float = 0.02
    draft_target: Literal["teacher", "label"] = "teacher"
    denoise_target: Literal["teacher", "label"] = "label"
    denoise: float = 1.0
    slot_decay: float = 1.0
    first_error: bool = False
    lk: bool = False
    lk_eta: float = 0.5
    lk_temperature: float = 3.0
    lk_top_k: int = 200
    chunk: int = 256

    def __post_init__(self) -> None:
        one_of("form", self.form, ("nld", "article"))
        one_of("draft_target", self.draft_target, ("teacher", "label"))
        one_of("denoise_target", self.denoise_target, ("teacher", "label"))
        require(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        require(self.form == "nld" or self.alpha <= 1, "alpha", self.alpha, "at most 1 in the article's form")
        require(0 <= self.ramp <= 1, "ramp", self.ramp, "between 0 and 1")
        require(0 < self.slot_decay <= 1, "slot_decay", self.slot_decay, "above 0 and at most 1")
        require(self.denoise >= 0, "denoise", self.denoise, "0 or more")
        require(self.lk_temperature > 0, "lk_temperature", self.lk_temperature, "above 0")
        require(self.lk_top_k >= 1, "lk_top_k", self.lk_top_k, "at least 1")
        require(self.chunk >= 1, "chunk", self.chunk, "at least 1")


@dataclass(frozen=True, slots=True)
class Optimiser:
    """kind "adamw", or "muon": momentum orthogonalised (Jordan et al. 2024) for matrices inside the layers and AdamW
    for all else. muon_lr: learning rate of those matrices. weight_decay acts on matrices only.

    The learning rate rises over `warmup`, stays, and falls over the last `decay` of the run to `final` of its peak (all
    shares). clip: largest global gradient norm. ema: decay per step of the averaged weights; 0: none are kept.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    muon_lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: float = 0.01
    decay: float = 0.2
    final: float = 0.1
    ema: float = 0.0

    def __post_init__(self) -> None:
        one_of("optimiser", self.kind, ("adamw", "muon"))
        for name in ("lr", "muon_lr", "eps", "clip"):
            value = getattr(self, name)
            require(value > 0 and math.isfinite(value), name, value, "above 0")
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "at least 0 and below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        for name in ("warmup", "decay", "final"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        require(self.warmup + self.decay <= 1, "warmup + decay", self.warmup + self.decay, "at most 1")
        require(0 <= self.ema < 1, "ema", self.ema, "at least 0 and below 1")


@dataclass(frozen=True, slots=True)
class Infill:
    """Gap layouts (`unmask.training.gaps`): texts with a part taken out, learned with what comes after it in view.

    share: of the samples. spans: how the part is drawn, one of these by chance: "characters", "lines", "syntax" (a node
    of a Python syntax tree; lines where the text has none).
    room: most blocks between prefix and suffix. Any number from what the part needs to this is as likely: in use nobody
    knows the length of the part, and the room says no more of it than that it fits.
    end_id: token that ends a gap and fills its last block; None: `gaps.end_of_gap` chooses one of the tokenizer's.
    """

    share: float = 0.0
    spans: tuple[str, ...] = ("characters", "lines", "syntax")
    room: int = 3
    end_id: int | None = None

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, "share of infill", self.share, "between 0 and 1")
        kinds = ("characters", "lines", "syntax")
        require(bool(self.spans) and set(self.spans) <= set(kinds), "spans", self.spans, f"some of {', '.join(kinds)}")
        require(self.room >= 1, "room", self.room, "at least 1")


@dataclass(frozen=True, slots=True)
class Adapter:
    """The low-rank adapter: its name in the checkpoint, and A [rank, in], B [out, rank] on every target projection.

    mask_embedding: masks have a learned input of their own instead of the mask id's row.
    coherence: width of a head that chooses drafts one after the other (`unmask.model.coherence`); 0: none.
    """

    name: str = "unmask"
    rank: int = 64
    alpha: float = 64.0
    targets: tuple[str, ...] = LINEARS
    mask_embedding: bool = True
    coherence: int = 0

    def __post_init__(self) -> None:
        require(self.name.isidentifier(), "adapter name", self.name, "a plain word")
        require(self.rank >= 1, "rank", self.rank, "at least 1")
        require(self.alpha > 0, "alpha of the adapter", self.alpha, "above 0")
        require(self.coherence >= 0, "coherence", self.coherence, "0 or more")
        fine = bool(self.targets) and set(self.targets) <= set(LINEARS)
        require(fine, "targets", self.targets, f"some of {', '.join(LINEARS)}")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One run. `batch` samples of `length` tokens make a micro-batch; `accumulation` of these, over all processes, make
    a step.

    method "joint": all weights; "adapter": the model is frozen. stage "drafter": a draft adapter for a joint model;
    "filler": an adapter for the causal rows of texts with gaps, which learns what is in them.
    seed_placement: where a draft sees its seed (`unmask.types.Traits.seed`).
    context: what a block sees of the blocks before it, "clean" tokens or, for comparison (arXiv 2512.14067, table 1),
    their "noisy" copies.
    steps or minutes: the budget; with minutes the learning rate follows the clock, and a resumed run is not the same
    numbers. views: noised copies of each sample in one forward.
    dtype: of activations and of frozen weights; trained weights are float32 (or float64).
    save_every, eval_every: in steps (0: only at the end). keep_last: checkpoints that stay beside the best.
    """

    method: Literal["joint", "adapter"] = "adapter"
    stage: Literal["convert", "drafter", "filler"] = "convert"
    seed_placement: Literal["block", "causal", "copy"] = "block"
    context: Literal["clean", "noisy"] = "clean"
    length: int = 256
    batch: int = 8
    accumulation: int = 1
    views: int = 1
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    dtype: Literal["bfloat16", "float32", "float64"] = "bfloat16"
    attention: Literal["split", "flex", "dense"] | None = None
    activation_checkpointing: bool = False
    shard: bool = False
    save_every: int = 200
    keep_last: int = 2
    eval_every: int = 0
    log_every: int = 1
    blocks: Blocks = field(default_factory=Blocks)
    noise: Noise = field(default_factory=Noise)
    infill: Infill = field(default_factory=Infill)
    loss: Loss = field(default_factory=Loss)
    optimiser: Optimiser = field(default_factory=Optimiser)
    adapter: Adapter = field(default_factory=Adapter)

    def __post_init__(self) -> None:
        one_of("method", self.method, ("joint", "adapter"))
        one_of("stage", self.stage, ("convert", "drafter", "filler"))
        one_of("seed_placement", self.seed_placement, ("block", "causal", "copy"))
        one_of("context", self.context, ("clean", "noisy"))
        one_of("dtype", self.dtype, ("bfloat16", "float32", "float64"))
        one_of("attention", self.attention, ("split", "flex", "dense", None))
        for name in ("length", "batch", "accumulation", "views", "keep_last", "log_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("save_every", "eval_every", "seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(f"give a budget, either steps or minutes; got steps {self.steps}, minutes {self.minutes}")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.minutes is None or self.minutes > 0, "minutes", self.minutes, "above 0")
        if self.stage != "convert" and self.method != "adapter":
            raise ValueError(f"stage {self.stage!r} trains an adapter: method must be 'adapter', got {self.method!r}")
        if self.stage == "filler" and (not self.infill.share or self.adapter.coherence or self.adapter.mask_embedding):
            raise ValueError(
                "stage 'filler' learns gaps and nothing of masks: infill.share must be above 0, adapter.coherence 0 and"
                " adapter.mask_embedding false"
            )
        if self.stage == "drafter" and self.blocks.full_share < 1:
            raise ValueError(
                f"stage 'drafter' has drafting blocks only: full_share must be 1, got {self.blocks.full_share}"
            )
        if self.context == "noisy" and (self.noise.complementary or self.seed_placement == "copy"):
            raise ValueError("context 'noisy' has neither complementary copies of blocks nor seed_placement 'copy'")
        causal = self.ar_only and self.stage != "filler"
        if self.infill.share and (self.stage == "drafter" or self.context == "noisy" or causal):
            raise ValueError("infill.share needs blocks that are denoised on clean context: not in this kind of run")
        if self.shard and self.method != "joint":
            raise ValueError(f"shard is for method 'joint', which trains all weights; got {self.method!r}")
        if self.shard and self.optimiser.kind == "muon":
            raise ValueError("shard splits the matrices that muon needs whole: optimiser must be 'adamw'")

    @property
    def samples_per_step(self) -> int:
        return self.batch * self.accumulation

    @property
    def gap_room(self) -> int:
        """Most positions between what is before a gap and its suffix; the longest part leaves one for its end token."""
        return self.infill.room * self.blocks.size

    @property
    def ar_only(self) -> bool:
        """Whether the diffusion loss has no weight at all, so that no noisy row is needed."""
        plain = self.method == "joint" and self.loss.form == "nld" and self.loss.alpha == 0
        return plain or self.stage == "filler"


def to_json(config: TrainConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)


def from_json(raw: dict[str, Any]) -> TrainConfig:
    """The inverse of `to_json`, through JSON; ValueError for fields that do not exist."""
    parts = {"blocks": Blocks, "noise": Noise, "infill": Infill, "loss": Loss, "optimiser": Optimiser}
    parts |= {"adapter": Adapter}
    given = {name: _build(parts[name], value, f"{name}.") if name in parts else value for name, value in raw.items()}
    return _build(TrainConfig, given, "")


def _build(kind: Any, raw: dict[str, Any], where: str) -> Any:
    known = [f.name for f in dataclasses.fields(kind)]
    if unknown := next((name for name in raw if name not in known), None):
        raise ValueError(f"no setting is called {where + unknown!r}; there are: {', '.join(known)}")
    return kind(**{name: _tuples(value) for name, value in raw.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
