"""`unmask demo`: one prompt in every mode, denoising shown live, and a table of what each mode cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from unmask.cli.common import DEFAULT_MODEL, as_json, err, load_model, opened, out
from unmask.cli.flags import AdapterFolder, Device, Dtype, Model, Quantize, TraceFile
from unmask.cli.generate import watch_one

if TYPE_CHECKING:
    from unmask.lm import Generation

PROMPT = "Write a Python function that returns the n-th Fibonacci number."
# Title, options, and whether the mode promises the ids of AR.
WAYS: list[tuple[str, dict[str, Any], bool]] = [
    ("ar", {"mode": "ar"}, True),
    ("fastdiffuser", {"mode": "fastdiffuser"}, False),
    ("linearspec", {"mode": "self-speculation", "spec_variant": "linearspec"}, True),
    ("quadspec", {"mode": "self-speculation", "spec_variant": "quadspec"}, True),
    ("adaptivespec", {"mode": "self-speculation", "spec_variant": "adaptivespec"}, True),
    ("auto", {"mode": "auto"}, True),
]


def demo(
    prompt: Annotated[str, typer.Argument(help="What to ask the model.")] = PROMPT,
    model: Model = DEFAULT_MODEL,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Most new tokens per mode.")] = 96,
    dtype: Dtype = None,
    device: Device = None,
    adapter: AdapterFolder = None,
    quantize: Quantize = None,
    exactness: Annotated[
        str, typer.Option("--exactness", help="exact compares ids for real; fast shows the quickest kernels.")
    ] = "exact",
    trace: TraceFile = None,
    as_objects: Annotated[bool, typer.Option("--json", help="One JSON object per mode, nothing else.")] = False,
) -> None:
    """See a model unmask text in every mode, and what each mode costs."""
    record = opened(trace)
    lm = load_model(model, dtype=dtype, device=device, exactness=exactness, adapter=adapter, quantize=quantize)
    ids = lm.encode_chat([{"role": "user", "content": prompt}])
    warm_up = {"max_tokens": 2, "ignore_eos": True}
    done: dict[str, Generation] = {}
    for title, options, lossless in WAYS:
        lm.generate(ids, **options, **warm_up)  # the first forward of a shape, and the cost table, are not what we show
        if as_objects:
            with lm.tracing(record, title):
                done[title] = lm.generate(ids, max_tokens=max_tokens, **options)
            same = done[title].token_ids == done["ar"].token_ids if lossless else None
            print(json.dumps({"title": title, "same_ids_as_ar": same} | as_json(done[title])), flush=True)
            continue
        out.rule(f"[bold]{title}", align="left")
        with lm.tracing(record, title):
            done[title] = watch_one(lm, ids, {"max_tokens": max_tokens, **options})
    if as_objects:
        return
    out.print(table_of(done, model, lm.engine.config.exactness))
    if not lm.traits.trained:
        err.print(
            f"{model} has not learned to fill masks, so its drafts are rarely right and its fastdiffuser text is noise;"
            " the lossless modes still write exactly what AR writes.",
            style="dim",
            soft_wrap=True,
        )


def table_of(done: dict[str, Generation], model: str, exactness: str) -> Table:
    caption = "tpf: tokens per forward after prefill; acceptance: tokens per draft and verify round"
    title = f"{Path(model).name}, greedy, {exactness}"
    table = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in ("mode", "tokens/s", "forwards", "tpf", "acceptance", "same ids as AR"):
        table.add_column(name, justify="left" if name == "mode" else "right", no_wrap=True)
    for title, _, lossless in WAYS:
        generation, stats = done[title], done[title].stats
        same = "yes" if generation.token_ids == done["ar"].token_ids else "NO"
        table.add_row(
            title if title == generation.strategy else f"{title} ({generation.strategy})",
            f"{stats.decode_tokens_per_second:.1f}",
            str(stats.nfe),
            f"{stats.tpf:.2f}",
            f"{stats.acceptance_length:.2f}" if stats.acceptance_length else "-",
            same if lossless else "not promised",
        )
    return table
