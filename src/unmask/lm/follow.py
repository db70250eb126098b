"""One request on its way out: engine updates become text, stop strings end it, the numbers are taken at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator

from unmask.constraints import Spec
from unmask.engine.engine import Update
from unmask.lm.constraining import judged
from unmask.lm.result import Event, Generation, Piece, numbers_of
from unmask.lm.watching import seen
from unmask.text import TextStream, Tokenizer
from unmask.types import FinishReason, Request, State, Token, Verdict


class Follow:
    """Turns the updates of one request into events. `done` is set once the text has ended, by the engine or here."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: Request,
        stop: tuple[str, ...],
        mode: str,
        specs: tuple[Spec, ...] = (),
        skip: int = 0,
        around: tuple[str, str] = ("", ""),
    ) -> None:
        """skip: so many characters at the start are the prompt's own, written again (`text.healing`). around: what
        stands before and after the text and obeys the specs together with it."""
        self.stream = self.blank = TextStream(
            tokenizer, stop, min_ids=request.min_tokens, skip=skip, continues=bool(around[0])
        )
        self.request, self.mode, self.specs, self.around = request, mode, specs, around
        self.text, self.tokens = list[str](), list[Token]()
        self.head = 0  # tokens, of those, that were there before
        self.begun = time.perf_counter()
        self.first: float | None = None
        self.done: Generation | None = None
        self.state: State | None = None  # after the last step; none before the first one

    def behind(self, head: tuple[Token, ...]) -> Follow:
        """The same for a request whose prompt has `head` in it, which text and tokens begin with; not for one that
        `head` ends (`stream.hit`)."""
        blank = self.blank
        made = Follow(blank.tokenizer, self.request, blank.stops, self.mode, self.specs, blank.skip, self.around)
        made.stream, text = made.stream.feed(token.id for token in head)
        made.text, made.tokens, made.head = [text], list(head), len(head)
        return made

    def take(self, update: Update) -> Iterator[Event]:
        """Events of one step. After one that sets `done` the request must be cancelled if the engine goes on."""
        outcome = update.outcome
        frame = seen(self.state, update) if self.request.watch else None
        self.state = update.state
        if frame is not None:
            yield frame
        if outcome.emit and self.first is None:
            self.first = time.perf_counter() - self.begun
        before = self.stream.fed
        self.stream, text = self.stream.feed(token.id for token in outcome.emit)
        emitted = outcome.emit[: self.stream.fed - before]
        finish: FinishReason | None = "stop" if self.stream.hit else outcome.finish
        if finish:
            self.stream, rest = self.stream.finish()
            text += rest
        self.tokens.extend(emitted)
        self.text.append(text)
        if text or emitted:
            yield Piece(text, emitted)
        if finish:
            self.done = self.whole(update, finish)
            yield self.done

    def whole(self, update: Update, finish: FinishReason) -> Generation:
        seconds = time.perf_counter() - self.begun
        text = "".join(self.text)
        return Generation(
            text=text,
            token_ids=tuple(token.id for token in self.tokens),
            tokens=tuple(self.tokens),
            finish_reason=finish,
            stats=numbers_of(
                update.state, len(self.tokens) - self.head, seconds, seconds if self.first is None else self.first
            ),
            prompt_ids=self.request.prompt,
            mode=self.mode,
            strategy=update.state.request.strategy,
            stopped_by=self.stream.hit.text if self.stream.hit else None,
            constraint=judged(self.specs, text.join(self.around), self.soft(update.state)),
        )

    @staticmethod
    def soft(state: State) -> Verdict | None:
        """What the oracles have said of the whole text; None where there are none."""
        if state.request.judge is None:
            return None
        return state.trial.verdict or Verdict("unknown", "the text was ended before the oracles had seen all of it")
