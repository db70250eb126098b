"""`unmask roofline`: what memory and arithmetic allow a model on this machine or on a GPU, and how near we are."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.common import DEFAULT_MODEL, err, load_model, out, quiet_spinner
from unmask.cli.flags import LOADING, with_flags

if TYPE_CHECKING:
    from unmask.bench.roofs import Roof


@with_flags(loading=LOADING)
def roofline(
    model: Annotated[
        str, typer.Argument(help="Short name, Hugging Face folder, .gguf file or hub id.")
    ] = DEFAULT_MODEL,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu",
            help="Measure nothing: predict for a GPU by its published numbers (a100, h100, h200, b200, l4, l40s,"
            " rtx4090, mi300x). May be repeated. A folder with a config.json is enough.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[int, typer.Option("--context", help="Rows of live context.")] = 512,
    block: Annotated[
        list[int] | None, typer.Option("--block", help="Tokens of a block; may be repeated.", show_default="8 and 32")
    ] = None,
    tpf: Annotated[
        float | None, typer.Option("--tpf", help="Tokens per forward that fastdiffuser reaches.", show_default=False)
    ] = None,
    acceptance: Annotated[
        float | None,
        typer.Option("--acceptance", help="Tokens per round that self-speculation reaches.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--out", help="Write the JSON object here, and the picture beside it (.png).", show_default=False),
    ] = None,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object, nothing else.")] = False,
    loading: dict[str, Any] | None = None,
) -> None:
    """Measure this machine's memory and arithmetic, and see how near a model's forwards are to what they allow.

    For each number of rows: bytes, FLOPs, FLOPs per byte, the floor in milliseconds and the time really taken.

    For each mode: how many tokens a forward or a round has to bring to beat AR, and with --tpf or --acceptance tokens
    per second.
    """
    from unmask.bench.pictures import drawn, kind_of
    from unmask.bench.tables import rooflines
    from unmask.evaluation.record import rounded

    for name, value in (("--context", context + 1), ("--tpf", tpf), ("--acceptance", acceptance), *blocks_of(block)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be {'0 or more' if name == '--context' else 'above 0'}")
    if file is not None and not file.parent.is_dir():
        raise FileNotFoundError(f"no folder {file.parent} to write {file.name} to")
    asked = {"tpf": tpf, "acceptance": acceptance, **({"blocks": tuple(block)} if block else {})}
    found, roofs = (published if gpu else measured)(model, gpu or [], context, asked, loading or {})
    if file is not None:
        from unmask.evaluation.record import write

        write(file, rounded(found))
        draw(file.with_suffix(".png"), found)
    if as_object:
        print(json.dumps(rounded(found)))
        return
    for table in rooflines(found, roofs):
        out.print(table)
    for line in drawn(roofs[0], kind_of(found), found["roofs"][0]["forwards"]):
        out.print(line, soft_wrap=True, markup=False)


def blocks_of(block: list[int] | None) -> list[tuple[str, int]]:
    return [("--block", each) for each in block or ()]


def measured(
    model: str, _: list[str], context: int, asked: dict[str, Any], loading: dict[str, Any]
) -> tuple[dict[str, Any], list[Roof]]:
    """This machine: its roof first, then forwards of the loaded model."""
    from unmask.bench import machine, roofline
    from unmask.evaluation.record import circumstances

    lm = load_model(model, **loading)
    weight = lm.decoder.model.embed_tokens.weight
    if context + max(roofline.ROWS) > lm.config.max_position:
        raise ValueError(f"--context must leave {max(roofline.ROWS)} of the model's {lm.config.max_position} positions")
    with quiet_spinner("Measuring this machine"):
        roof = machine.measure(weight.device)
        times = roofline.times(lm, context)
        lm.engine.measure_anew(lm.traits.draft_adapter)
    dtype = str(weight.dtype).removeprefix("torch.")
    about = {"model": Path(model).name, "dtype": dtype, "quantize": lm.quantize, "context": context}
    part = on(roof, lm.config, about, asked, times)
    return {**about, **circumstances(lm), "roofs": [part]}, [roof]


def published(
    model: str, gpus: list[str], context: int, asked: dict[str, Any], loading: dict[str, Any]
) -> tuple[dict[str, Any], list[Roof]]:
    """GPUs that nobody has to own. Nothing but the model's sizes is read."""
    from unmask.bench.roofline import config_of
    from unmask.bench.roofs import gpu
    from unmask.bench.work import BYTES

    if foreign := [name for name in loading if name not in ("dtype", "quantize")]:
        raise ValueError(f"--{foreign[0].replace('_', '-')} does not apply with --gpu")
    dtype, quantize = loading.get("dtype", "bfloat16"), loading.get("quantize")
    if dtype not in BYTES or quantize not in (None, "int8", "int4"):
        raise ValueError(f"dtype must be one of {', '.join(BYTES)}, quantize int8 or int4, got {dtype} and {quantize}")
    roofs, config = list(map(gpu, gpus)), config_of(model)
    about = {"model": Path(model).name, "dtype": dtype, "quantize": quantize, "context": context}
    return {**about, "roofs": [on(roof, config, about, asked) for roof in roofs]}, roofs


def on(
    roof: Roof, config: Any, about: dict[str, Any], asked: dict[str, Any], times: dict[int, float] | None = None
) -> dict[str, Any]:
    """All that is known of a model under one roof, as plain data."""
    from unmask.bench import roofline

    how = roof, config, about["dtype"], about["quantize"], about["context"]
    return {
        "name": roof.name,
        "source": roof.source,
        "bandwidth": roof.bandwidth,
        "rates": dict(roof.rates),
        "forwards": roofline.floors(*how, measured=times),
        "modes": roofline.predictions(*how, **asked),
    }


def draw(file: Path, found: dict[str, Any]) -> None:
    """The picture, where matplotlib is installed."""
    if not find_spec("matplotlib"):
        err.print("no picture: matplotlib is not installed (pip install 'unmask[eval]')", style="dim")
        return
    from unmask.bench.pictures import first_roof

    first_roof(found).savefig(file, dpi=110)
