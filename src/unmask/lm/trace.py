"""`--trace`: generations as lines of JSON while they run, for `unmask view`. A killed run can be looked at up to
where it came. The form is documented in docs/viewer.md and has a version."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unmask import __version__
from unmask.engine.engine import Update
from unmask.lm.follow import Follow
from unmask.lm.result import Event, Generation, Piece
from unmask.lm.watching import frame_data, token_data
from unmask.text import Tokenizer
from unmask.types import Frame, Request, State

TRACE_VERSION = 1
MEASURED = ("costs", "draft_costs", "profile")  # of the settings: long, and of the machine rather than of the request


class Trace:
    """A trace file, begun anew. title: what generations that begin now are called.

    Raises OSError where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.title, self.generations = path, "", 0
        path.write_text("", encoding="utf-8")

    def write(self, kind: str, **data: Any) -> None:
        line = json.dumps({"object": f"unmask.{kind}", **data}, separators=(",", ":"))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def begin(self, model: str, tokenizer: Tokenizer, request: Request, mode: str) -> Tracing:
        """Note a generation that is queued now. request: as the engine has it, with `auto` resolved."""
        if not self.generations:
            started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self.write("trace", version=TRACE_VERSION, unmask=__version__, model=model, started=started)
        index, self.generations = self.generations, self.generations + 1
        settings = {} if request.settings is None else asdict(request.settings)
        self.write(
            "start",
            index=index,
            title=self.title,
            mode=mode,
            strategy=request.strategy,
            prompt=tokenizer.decode(request.prompt, skip_special=False),
            prompt_tokens=len(request.prompt),
            suffix=tokenizer.decode(request.suffix, skip_special=False) if request.suffix else "",
            max_tokens=request.max_tokens,
            temperature=request.sampling.temperature,
            seed=request.sampling.seed,
            settings={n: v for n, v in settings.items() if v is not None and n not in MEASURED},
        )
        return Tracing(self, index, tokenizer, len(request.prompt))


class Running:
    """A request that is in the engine under a number: its updates become events here, and lines of a trace.

    shown: whether frames are wanted, which a trace takes in any case.
    """

    def __init__(self, number: int, follow: Follow, shown: bool, tracing: Tracing | None = None) -> None:
        self.number, self.follow, self.shown, self.tracing = number, follow, shown, tracing

    def take(self, at: float, update: Update) -> list[Event]:
        """Events of one step. at: when it ended, by `time.perf_counter`."""
        events = list(self.follow.take(update))
        if self.tracing is not None:
            self.tracing.step(at, update.state, events)
        return [event for event in events if self.shown or not isinstance(event, Frame)]

    def end(self) -> None:
        """However it ended."""
        if self.tracing is not None:
            self.tracing.end()


class Tracing:
    """One generation of a trace. Times are seconds since it was queued."""

    def __init__(self, trace: Trace, index: int, tokenizer: Tokenizer, prompt_tokens: int) -> None:
        self.trace, self.index, self.tokenizer, self.prompt_tokens = trace, index, tokenizer, prompt_tokens
        self.begun, self.rows, self.ended = time.perf_counter(), 0, False

    def step(self, at: float, state: State, events: Sequence[Event]) -> None:
        """Note what one step brought. at: when it ended, by `time.perf_counter`."""
        frames = [event for event in events if isinstance(event, Frame)]
        pieces = [event for event in events if isinstance(event, Piece)]
        stats, name = state.stats, self.tokenizer.token_text
        self.trace.write(
            "step",
            index=self.index,
            seconds=round(at - self.begun, 6),
            step=stats.prefills + stats.nfe,
            nfe=stats.nfe,
            prefills=stats.prefills,
            rows=stats.rows - self.rows,
            text="".join(piece.text for piece in pieces),
            token_details=[token_data(token, name) for piece in pieces for token in piece.tokens],
            frame=frame_data(frames[0], name, prompt_tokens=self.prompt_tokens, index=self.index) if frames else None,
        )
        self.rows = stats.rows
        for event in events:
            if isinstance(event, Generation):
                self.end(event)

    def end(self, generation: Generation | None = None) -> None:
        """Note the end, once: None is a generation that was given up."""
        if self.ended:
            return
        self.ended = True
        seconds = round(time.perf_counter() - self.begun, 6)
        if generation is None:
            self.trace.write("end", index=self.index, seconds=seconds, finish_reason="cancelled", stats=None)
            return
        stats = asdict(generation.stats) | {
            "tpf": generation.stats.tpf,
            "acceptance_length": generation.stats.acceptance_length,
        }
        self.trace.write(
            "end",
            index=self.index,
            seconds=seconds,
            finish_reason=generation.finish_reason,
            text=generation.text,
            stats=stats,
        )
