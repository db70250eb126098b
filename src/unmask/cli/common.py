"""What the verbs share: the two consoles, models pulled with a progress bar, results as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

if TYPE_CHECKING:
    from unmask.lm import LM, Generation
    from unmask.lm.trace import Trace

out, err = Console(highlight=False), Console(stderr=True, highlight=False)
DEFAULT_MODEL = "smollm2-135m"
INTERRUPTED = 130  # exit code of a command that a signal ended


def load_model(name: str, **loading: Any) -> LM:
    """`LM.load`, with a progress bar where the model has to be pulled first."""
    from unmask.lm import LM
    from unmask.model import store

    if any(model.name == name and not model.present for model in store.models()):
        pull_with_progress(name)
    if loading.get("adapter") == "none":
        loading["adapter"] = False
    with quiet_spinner(f"Loading {name}"):
        return LM.load(name, **loading)


def opened(trace: Path | None) -> Trace | None:
    """The file of --trace, if there is to be one; before a model is loaded, since it may not be writable."""
    from unmask.lm.trace import Trace

    return None if trace is None else Trace(trace)


def pull_with_progress(name: str) -> str:
    """Pull a model and show how far it is; returns where it lies."""
    from unmask.model import store

    if all(model.name != name or model.present for model in store.models()):
        return str(store.pull(name))  # nothing to show: it is there, or there is no such model
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(
        *columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal
    ) as progress:
        task = progress.add_task(f"Pulling {name}", total=None)
        return str(store.pull(name, lambda done, total: progress.update(task, completed=done, total=total)))


@contextmanager
def quiet_spinner(text: str) -> Iterator[None]:
    """A sign of life on a terminal, nothing elsewhere."""
    if err.is_terminal:
        with err.status(text):
            yield
    else:
        yield


def as_json(generation: Generation) -> dict[str, Any]:
    """A generation as plain data: text, ids, reason, and all numbers."""
    stats = generation.stats
    numbers = asdict(stats) | {
        "tpf": stats.tpf,
        "tpf_total": stats.tpf_total,
        "acceptance_length": stats.acceptance_length,
        "tokens_per_second": stats.tokens_per_second,
        "decode_tokens_per_second": stats.decode_tokens_per_second,
    }
    return {
        "text": generation.text,
        "token_ids": list(generation.token_ids),
        "finish_reason": generation.finish_reason,
        "mode": generation.mode,
        "strategy": generation.strategy,
        "prompt_tokens": len(generation.prompt_ids),
        "stats": numbers,
    } | ({"constraint": generation.constraint.plain()} if generation.constraint else {})


def summary(generation: Generation) -> str:
    """One line of numbers."""
    stats = generation.stats
    length = f", {stats.acceptance_length:.2f} tokens a round" if stats.acceptance_length else ""
    return (
        f"{generation.strategy}: {stats.tokens} tokens in {stats.nfe + stats.prefills} forwards"
        f" ({stats.tpf:.2f} a forward{length}), {stats.tokens_per_second:.1f} tokens/s"
    )
