"""`unmask chat`: a conversation in the terminal, with the mode changed on the fly."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.common import DEFAULT_MODEL, err, load_model, opened, out, summary
from unmask.cli.constraining import CONSTRAINTS, SOFT, constrained
from unmask.cli.flags import DECODING, LOADING, Model, TraceFile, with_flags
from unmask.cli.generate import print_one, watch_one

if TYPE_CHECKING:
    from unmask.lm import LM, Generation

HELP = """\
/mode ar | fastdiffuser | auto | self-speculation | linearspec | quadspec | adaptivespec
/set OPTION VALUE   any decoding option, as in /set temperature 0.8; without a value it is unset
/watch              show masks being filled, or not
/reset              forget the conversation
/help, /quit        Ctrl-C stops an answer, Ctrl-D ends"""


@with_flags(options=DECODING, loading=LOADING, constraint=CONSTRAINTS | SOFT)
def chat(
    options: dict[str, Any],
    loading: dict[str, Any],
    constraint: dict[str, Any],
    model: Model = DEFAULT_MODEL,
    system: Annotated[str | None, typer.Option("--system", help="System message.", show_default=False)] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show masks being filled.")] = False,
    trace: TraceFile = None,
) -> None:
    """Talk with a model. Type /help for what can be changed while you do."""
    record = opened(trace)
    talk = Conversation(load_model(model, **loading), constrained(options, constraint), system, watch)
    talk.lm.trace = record
    if sys.stdin.isatty():
        err.print(f"{model}, mode {talk.mode}. /help shows what can be changed.", style="dim")
    while not talk.ended:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            talk.take(line.strip())


class Conversation:
    """The messages so far and the options of the next answer. A line is a command or a message."""

    def __init__(self, lm: LM, options: dict[str, Any], system: str | None, watch: bool) -> None:
        self.lm, self.options, self.watch, self.ended = lm, dict(options), watch, False
        self.opening = [{"role": "system", "content": system}] if system is not None else []
        self.messages = list(self.opening)

    @property
    def mode(self) -> str:
        from unmask.lm.options import default_mode

        return str(self.options.get("mode") or default_mode(self.lm.traits))

    def take(self, line: str) -> None:
        try:
            if line.startswith("/"):
                self.command(*line[1:].split(maxsplit=1))
            else:
                self.answer(line)
        except ValueError as error:
            err.print(f"unmask: {error}", markup=False, soft_wrap=True)

    def command(self, name: str = "", rest: str = "") -> None:
        if name == "mode":
            self.set_mode(rest)
        elif name == "set":
            self.set_option(*rest.split(maxsplit=1))
        elif name == "watch":
            self.watch = not self.watch
        elif name == "reset":
            self.messages = list(self.opening)
        elif name in ("quit", "exit"):
            self.ended = True
        else:
            out.print(HELP, markup=False)

    def set_mode(self, mode: str) -> None:
        from unmask.lm import MODES, SPEC_VARIANTS, options_of
        from unmask.lm.options import method_of

        if mode not in (*MODES, *SPEC_VARIANTS):
            raise ValueError(f"mode must be one of {', '.join((*MODES, *SPEC_VARIANTS))}, got {mode!r}")
        kept = {name: value for name, value in self.options.items() if name not in ("mode", "spec_variant")}
        chosen = {"mode": "self-speculation", "spec_variant": mode} if mode in SPEC_VARIANTS else {"mode": mode}
        method_of(options_of(kept | chosen), self.lm.traits)
        self.options = kept | chosen

    def set_option(self, name: str = "", value: str | None = None) -> None:
        from unmask.lm import options_of
        from unmask.lm.options import method_of

        changed = {key: old for key, old in self.options.items() if key != name}
        if value is not None:
            changed[name] = value_of(value)
        options_of({name: None} | changed)
        method_of(options_of(changed), self.lm.traits)
        self.options = changed

    def answer(self, text: str) -> None:
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self.lm.encode_chat(messages)
        try:
            generation: Generation = (watch_one if self.watch else print_one)(self.lm, ids, self.options)
        except KeyboardInterrupt:
            out.print("\n(stopped; this exchange is forgotten)", style="dim")
            return
        self.messages = [*messages, {"role": "assistant", "content": generation.text}]
        if sys.stdin.isatty():
            err.print(summary(generation), style="dim", soft_wrap=True)


def value_of(text: str) -> Any:
    """A value as typed: a number, true or false, else the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
