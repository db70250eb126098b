"""`LM`: one loaded model. Every call is a request to its engine, so calls from several threads share forwards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import torch

from unmask.config import EngineConfig
from unmask.engine.engine import Update
from unmask.lm.constraining import Constraining
from unmask.lm.fill import Filled, check_text, fill
from unmask.lm.filling import Filler, Filling
from unmask.lm.follow import Follow
from unmask.lm.loading import Parts, load
from unmask.lm.options import Options, default_mode, options_of, request_of
from unmask.lm.patching import patch, patch_all
from unmask.lm.result import Event, Generation
from unmask.lm.trace import Running, Trace
from unmask.patching import Mended, Patched
from unmask.text import ChatTemplate, render_chat
from unmask.types import Ids, Oracle, Request

Message = Mapping[str, Any]


class LM:
    """A tri-mode language model.

    ```python
    lm = LM.load("smollm2-135m")
    lm.generate("def fib(n):", mode="self-speculation", max_tokens=64).text
    ```
    """

    def __init__(self, parts: Parts) -> None:
        self.name, self.checkpoint, self.traits = parts.name, parts.checkpoint, parts.traits
        self.decoder, self.tokenizer, self.engine = parts.decoder, parts.tokenizer, parts.engine
        self.quantize, self.crew = parts.quantize, parts.crew
        self.config = parts.checkpoint.config
        self.stop_ids: Ids = tuple(dict.fromkeys((*self.config.stop_ids, *self.tokenizer.eos_ids)))
        self.template = ChatTemplate.of(self.tokenizer)
        self.constraining = Constraining(self.tokenizer, self.traits)
        self.filler = Filler(self.tokenizer, self.traits, self.stop_ids, self.config.max_position, self.constraining)
        self.lock = Lock()
        self.trace: Trace | None = None
        self._inbox = dict[int, deque[tuple[float, Update]]]()

    @classmethod
    def load(
        cls,
        name: str | Path = "smollm2-135m",
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        exactness: Literal["exact", "fast"] | None = None,
        mask_id: int | None = None,
        adapter: str | Path | Literal[False] | None = None,
        quantize: Literal["int8", "int4"] | None = None,
        max_tokens_cached: int | None = None,
        max_live: int | None = None,
        tp: int = 1,
    ) -> LM:
        """Load a model: a short name (pulled on first use), a Hugging Face folder, a .gguf file or a hub id.

        dtype: "bfloat16" or "float32"; None takes bfloat16 where the processor computes in it. device: None takes the
        GPU if there is one. exactness: "exact" gives every lossless mode the very same ids, at a price; "fast" (the
        default) may differ from them where two tokens are nearly equally likely. mask_id: the token that stands for
        "unknown", for a checkpoint that names none. adapter: a folder that `unmask convert` wrote; None takes the one
        that the model brings or this package ships for it, False none. quantize: "int8" is faster in every mode, "int4"
        smaller. max_tokens_cached: rows of key/value memory over all requests. max_live: most requests decoded at a
        time. tp: share the model between so many processes, each on a GPU of its own or with its part of the CPU's
        threads; `close` ends them.
        Raises ValueError, FileNotFoundError, ConnectionError and other OSErrors with one line that says what is wrong.
        """
        config = EngineConfig(exactness=exactness or "fast", max_tokens_cached=max_tokens_cached)
        if max_live is not None:
            config = replace(config, max_live=max_live)
        return cls(
            load(
                name,
                dtype=dtype,
                device=device,
                mask_id=mask_id,
                adapter=adapter,
                quantize=quantize,
                config=config,
                tp=tp,
            )
        )

    @property
    def tp(self) -> int:
        """Processes that hold the model."""
        return 1 if self.crew is None else self.crew.size

    def close(self) -> None:
        """End the other processes of a model that was loaded with `tp`; without them it cannot go on."""
        if self.crew is not None:
            self.crew.close()

    @property
    def oracles(self) -> dict[str, Oracle]:
        """Oracles that {"type": "oracle", "name": ...} among the constraints may name; put yours in here."""
        return self.constraining.oracles

    def encode(self, prompt: str | Sequence[int]) -> Ids:
        """Ids of a plain prompt (with the bos token if the model expects one), or the ids that were given."""
        if not isinstance(prompt, str):
            return tuple(prompt)
        bos = (self.tokenizer.bos_id,) if self.tokenizer.add_bos and self.tokenizer.bos_id is not None else ()
        return (*bos, *self.tokenizer.encode(prompt))

    def encode_chat(self, messages: Sequence[Message], **variables: Any) -> Ids:
        """Ids of a chat up to the assistant's turn; variables go to the model's chat template."""
        return self.tokenizer.encode(render_chat(self.template, messages, variables=variables), special=True)

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Generation:
        """Continue a prompt (text, or ids) and return the whole.

        options: the fields of `Options`. ValueError for a wrong one, for an empty prompt, or one that does not fit.
        """
        return self.finish(self.stream(prompt, **options))

    def chat(self, messages: Sequence[Message], **options: Any) -> Generation:
        """Answer a chat: [{"role": "user", "content": "..."}, ...]; options as in `generate`."""
        return self.generate(self.encode_chat(messages), **options)

    def generate_all(self, prompts: Sequence[str | Sequence[int]], **options: Any) -> list[Generation]:
        """Continue many prompts in one batch, each under the same options."""
        streams = [self.stream(prompt, **options) for prompt in prompts]
        return [self.finish(stream) for stream in streams]

    def stream(self, prompt: str | Sequence[int], **options: Any) -> Iterator[Event]:
        """Continue a prompt and watch: a `Piece` of text whenever some is certain, with `frames=True` a `Frame` of the
        open block after every step, and at last the `Generation`. Closing the iterator cancels the request."""
        return self.start(self.encode(prompt), options_of(options))

    def start(self, ids: Ids, options: Options) -> Iterator[Event]:
        """As `stream`, for ids and ready options. The request is checked and queued at once."""
        return self.submit(*self.prepare(ids, options))

    def submit(self, request: Request, follow: Follow) -> Iterator[Event]:
        """As `stream`, for a request that `prepare` or `filler.prepare` made."""
        with self.lock:
            running = self.enqueue(request, follow)
            self._inbox[running.number] = deque()
        return self._events(running)

    def enqueue(self, request: Request, follow: Follow) -> Running:
        """A request queued in the engine, traced where `trace` is set: for those who step the engine themselves."""
        shown, trace = request.watch, self.trace
        if trace is None:
            return Running(self.engine.submit(request), follow, shown)
        request = follow.request = replace(request, watch=True)
        number = self.engine.submit(request)
        prepared = self.engine.requests[number].state.request
        return Running(number, follow, shown, trace.begin(self.name, self.tokenizer, prepared, follow.mode))

    @contextmanager
    def tracing(self, trace: Trace | None, title: str = "") -> Iterator[None]:
        """Note the generations that begin inside, in a file for `unmask view`; None notes nothing."""
        before, self.trace = self.trace, trace
        if trace is not None:
            trace.title = title
        try:
            yield
        finally:
            self.trace = before

    def fill(
        self,
        prefix: str,
        suffix: str,
        *,
        layout: str | None = None,
        length: int | None = None,
        candidates: int = 1,
        heal: bool | None = None,
        untrained: bool = False,
        constrain: str = "gap",
        **options: Any,
    ) -> Filled:
        """Fill the gap between two texts, with both in view; an empty suffix means that nothing follows.

        layout: "in-place", "psm" or "spm"; None takes the best that the checkpoint has learned. length: exactly so many
        tokens; max_tokens: at most so many; neither: as many as it takes, up to the widest gap learned in place.
        candidates: fill so often and take what the model's causal rows like best together with the suffix's first
        tokens; without a temperature they part from a greedy one where another token was likely too
        (`lm.branching`), and are rooms of one, two, ... blocks in place. heal: let the last token of
        the prefix be written anew. untrained: let a model that has not learned to fill continue the prefix, and the
        suffix choose where to stop; a warning says so. constrain: whether a hard constraint is about the text of the
        "gap" or about the "whole" of prefix, gap and suffix. options: the fields of `Options`.
        ValueError for a model that cannot, and as in `generate`.
        """
        check_text("prefix", prefix)
        check_text("suffix", suffix)
        filling = Filling(
            layout=layout,
            length=length,
            candidates=candidates,
            heal=heal,
            untrained=untrained,
            constrain=constrain,
        )
        return fill(self, prefix, suffix, options_of(options), filling)

    def patch(self, text: str | bytes, *, path: str = "file.py", **given: Any) -> Patched:
        """Patch a part of a file's text: mask it, fill it, judge each filling in a copy, keep the first that may stand.

        given: the fields of `patching.Asked` (where to patch, and what has to hold), layout, heal and untrained as in
        `fill`, and the fields of `Options`. path: the file's name, for messages and for commands; it is never opened.
        ValueError for a wrong one, for a fault that is not there, and for a model that cannot fill; VerifierError where
        what has to judge cannot be run.
        """
        return patch(self, text, path, given)

    def patch_all(self, text: str | bytes, max_faults: int, *, path: str = "file.py", **given: Any) -> Mended:
        """Patch one fault after the other of those that `from_diagnostic` (python, ruff or mypy) finds, at most so
        many. After each accepted patch the tool is asked anew; a fault that cannot be mended is passed over. given and
        errors: as `patch`.
        """
        return patch_all(self, text, path, max_faults, given)

    def prepare(self, ids: Ids, options: Options) -> tuple[Request, Follow]:
        """What an engine runs, and what makes text of its updates: for those who step the engine themselves."""
        request = request_of(ids, options, self.traits, self.stop_ids, self.config.max_position)
        request = self.constraining.constrained(request, options, options.stop)
        mode = options.mode or default_mode(self.traits)
        return request, Follow(self.tokenizer, request, options.stop, mode, options.hard)

    def _events(self, running: Running) -> Iterator[Event]:
        try:
            while running.follow.done is None:
                yield from running.take(*self._next(running.number))
        finally:
            with self.lock:
                self.engine.cancel(running.number)
                self._inbox.pop(running.number, None)
            running.end()

    def _next(self, number: int) -> tuple[float, Update]:
        """The next update of a request and when it came, stepping the engine until there is one."""
        while True:
            with self.lock:
                inbox = self._inbox[number]
                if inbox:
                    return inbox.popleft()
                if number not in self.engine.requests:
                    raise RuntimeError("the generation was lost: a step of the engine that it took part in has failed")
                for update in self.engine.step():
                    if update.id in self._inbox:
                        self._inbox[update.id].append((time.perf_counter(), update))

    @staticmethod
    def finish(events: Iterator[Event]) -> Generation:
        """Run a stream to its end and return its `Generation`."""
        last = None
        for last in events:  # noqa: B007  (the last one is wanted)
            pass
        assert isinstance(last, Generation)
        return last
