"""Complete settings by name. A recipe is a function of its budget; every other number is written here, with its why."""

from __future__ import annotations

from collections.abc import Callable

from unmask.training.settings import Adapter, Blocks, Infill, Loss, Noise, Optimiser, TrainConfig


def tiny(steps: int | None = 20, minutes: float | None = None) -> TrainConfig:
    """Seconds on any machine, for tests and for trying a data set: an adapter of rank 4 on short samples."""
    return TrainConfig(
        method="adapter",
        length=64,
        batch=4,
        steps=steps,
        minutes=minutes,
        save_every=10,
        blocks=Blocks(size=8, full_share=0.5),
        adapter=Adapter(rank=4, alpha=4.0),
    )


def adapter(steps: int | None = None, minutes: float | None = 120.0) -> TrainConfig:
    """A draft and denoise adapter for a frozen model, on a CPU, by the clock. Made for SmolLM2-135M.

    Nearly all blocks draft, 8 tokens each, which is what a CPU can verify; the rest are partially masked blocks of 16,
    from which fastdiffuser learns. Early slots weigh more: a draft is worth its first wrong token. Blocks without
    context have gradients hundreds of times as large as others on SmolLM2, so the first 16 tokens have none. Rank 36 on
    all seven projections and a coherence head of width 512 fit 25 MB in 16 bits. docs/training-log.md has the why.
    """
    return TrainConfig(
        method="adapter",
        seed_placement="copy",
        length=384,
        batch=2,
        views=2,
        steps=steps,
        minutes=minutes,
        save_every=50,
        eval_every=200,
        blocks=Blocks(size=16, draft_size=8, full_share=0.95, first_share=1.0, skip=16),
        noise=Noise(weighted=False),
        loss=Loss(slot_decay=0.9, denoise=0.5),
        optimiser=Optimiser(lr=2e-3, warmup=0.02, decay=0.6, final=0.02, ema=0.98),
        adapter=Adapter(rank=36, alpha=36.0, coherence=512),
    )


def joint(steps: int | None = 12_000, minutes: float | None = None) -> TrainConfig:
    """All weights of a model of 10M to 400M parameters: L_AR + 0.3 L_diff, blocks of 16 after a curriculum.

    A quarter of the blocks is fully masked, for drafts; the others follow the exponential law with half-life 0.1.
    """
    steps_or_less = steps or 12_000
    batch, accumulation = 8, 8
    rising = tuple((int(0.6 * part / 4 * steps_or_less) * batch * accumulation, 2**part) for part in range(4))
    return TrainConfig(
        method="joint",
        length=1024,
        batch=batch,
        accumulation=accumulation,
        steps=steps,
        minutes=minutes,
        save_every=200,
        eval_every=200,
        blocks=Blocks(
            size=16, full_share=0.25, curriculum=(*rising, (int(0.6 * steps_or_less) * batch * accumulation, 16))
        ),
        noise=Noise(law="exponential", half_life=0.1),
        loss=Loss(alpha=0.3, form="nld"),
        optimiser=Optimiser(lr=1.5e-4, weight_decay=0.1, warmup=0.01, decay=0.2, final=0.1),
    )


def joint_8b(steps: int | None = 12_500, minutes: float | None = None) -> TrainConfig:
    """All weights of an 8B model on 8 GPUs, 4096 tokens, 512 samples a step, sharded (arXiv 2607.05722, stage 2)."""
    return TrainConfig(
        method="joint",
        length=4096,
        batch=1,
        accumulation=512,
        steps=steps,
        minutes=minutes,
        activation_checkpointing=True,
        shard=True,
        save_every=250,
        eval_every=500,
        blocks=Blocks(size=32, full_share=0.25),
        loss=Loss(alpha=0.3, form="nld"),
        optimiser=Optimiser(lr=1e-5, weight_decay=0.1, warmup=0.01, decay=0.2, final=0.3),
    )


def drafter(steps: int | None = 2_000, minutes: float | None = None) -> TrainConfig:
    """A draft adapter on the output projections of a joint model, by the LK hybrid (arXiv 2602.23881; 2607.05722 B)."""
    return TrainConfig(
        method="adapter",
        stage="drafter",
        length=512,
        batch=8,
        steps=steps,
        minutes=minutes,
        blocks=Blocks(size=32, full_share=1.0),
        loss=Loss(lk=True),
        optimiser=Optimiser(lr=2e-4, warmup=0.02, decay=0.3, final=0.1),
        adapter=Adapter(name="linear_spec_lora", rank=64, alpha=256.0, targets=("o_proj",), mask_embedding=False),
    )


def filler(steps: int | None = None, minutes: float | None = 90.0) -> TrainConfig:
    """An adapter with which the causal rows of a frozen model fill gaps, the suffix in view, on a CPU, by the clock.

    Every text has a gap, mostly of whole lines, of up to 47 tokens; only these are learned. Made for SmolLM2-135M.
    """
    return TrainConfig(
        method="adapter",
        stage="filler",
        length=256,
        batch=8,
        steps=steps,
        minutes=minutes,
        save_every=50,
        eval_every=200,
        blocks=Blocks(size=16, skip=4),
        infill=Infill(share=1.0, spans=("lines", "lines", "lines", "characters", "syntax"), room=3),
        optimiser=Optimiser(lr=1e-3, warmup=0.02, decay=0.7, final=0.02, ema=0.98),
        adapter=Adapter(name="fill", rank=16, alpha=16.0, mask_embedding=False),
    )


RECIPES: dict[str, Callable[..., TrainConfig]] = {
    "tiny": tiny,
    "adapter": adapter,
    "joint": joint,
    "joint-8b": joint_8b,
    "drafter": drafter,
    "filler": filler,
}
