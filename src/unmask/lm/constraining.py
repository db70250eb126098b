"""Constraints of a request: specs become the place that its text begins at, or are refused; oracles become its judge.

At last the text is judged by a check that knows nothing of how it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from unmask.constraints import Compiler, ConstraintError, Spec, Vocabulary, check
from unmask.lm.judging import Jury, together
from unmask.lm.options import Options
from unmask.lm.soft import Registered
from unmask.text import Tokenizer
from unmask.types import Ids, Oracle, Request, Traits, Verdict

DEFAULT_ROUNDS = 2
MOST_ROUNDS = 64


class Constraining:
    """The constraints of one model. Its vocabulary is read when the first hard one is asked for.

    oracles: those that can be asked for by name.
    """

    def __init__(self, tokenizer: Tokenizer, traits: Traits) -> None:
        self.tokenizer, self.traits = tokenizer, traits
        self.oracles = dict[str, Oracle]()

    @cached_property
    def compiler(self) -> Compiler:
        tokenizer = self.tokenizer
        silent = tokenizer.special_ids | {self.traits.mask_id}
        tokens = tuple(b"" if id in silent else tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size))
        return Compiler(Vocabulary(tokens, tokenizer.spelling.artificial_space))

    def constrained(
        self,
        request: Request,
        options: Options,
        stop: tuple[str, ...],
        before: str | None = None,
        after: str = "",
        around: tuple[str, str] = ("", ""),
    ) -> Request:
        """The request under its constraints. ConstraintError where they cannot be kept within it.

        stop: texts that end it. before, after: what oracles see around what is written; None: `seen_before` the prompt.
        around: what obeys a hard constraint together with what is written, before it and after it.
        """
        hard, soft, rounds = options.hard, options.soft, options.constraint_refinement_rounds
        if len(hard) > 1:
            raise ConstraintError(f"constraints may hold one hard constraint, got {len(hard)}")
        if hard and stop:
            raise ConstraintError("stop cannot be given beside a hard constraint: it would cut the text short")
        if rounds and not soft:
            raise ValueError(
                "constraint_refinement_rounds has nothing to act on: no soft constraint is among the constraints"
            )
        if rounds is not None and not 0 <= rounds <= MOST_ROUNDS:
            raise ValueError(f"constraint_refinement_rounds must be between 0 and {MOST_ROUNDS}, got {rounds}")
        if hard:
            left, right = (text.encode() for text in around)
            start = self.compiler.start(hard[0], request.stop_ids, request.max_tokens, left, right)
            request = replace(request, constraint=start)
        if soft:
            before = self.seen_before(request.prompt) if before is None else before
            oracles = tuple(map(self.oracle, soft))
            jury = Jury(oracles, self.tokenizer, before, after, stop, request.min_tokens)
            request = replace(request, judge=jury, rounds=DEFAULT_ROUNDS if rounds is None else rounds)
        return request

    def oracle(self, given: Registered | Oracle) -> Oracle:
        if not isinstance(given, Registered):
            return given
        if given.name not in self.oracles:
            known = ", ".join(self.oracles) or "none"
            raise ConstraintError(f"no oracle is registered as {given.name!r:.80}; registered: {known}")
        return self.oracles[given.name]

    def seen_before(self, prompt: Ids) -> str:
        """What oracles see of a prompt: all of a plain one, which the output goes on from; nothing of a chat, or of
        whatever else has special tokens in it."""
        plain = prompt[1:] if prompt[:1] == (self.tokenizer.bos_id,) else prompt
        return "" if self.tokenizer.special_ids.intersection(plain) else self.tokenizer.decode(plain)


def judged(specs: Sequence[Spec], text: str, soft: Verdict | None = None) -> Verdict | None:
    """What a judge that had no part in the text says of it, and the oracles' last word; None without a constraint."""
    verdicts = [check(spec, text) for spec in specs] + ([] if soft is None else [soft])
    return together(verdicts) if verdicts else None
