"""Constraints of a request: specs become the place that its text begins at, or are refused.

At last the text is judged by a check that knows nothing of how it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from unmask.constraints import Compiler, ConstraintError, Spec, Vocabulary, check
from unmask.text import Tokenizer
from unmask.types import Request, Traits, Verdict


class Constraining:
    """The constraints of one model. Its vocabulary is read when the first of them is asked for."""

    def __init__(self, tokenizer: Tokenizer, traits: Traits) -> None:
        self.tokenizer, self.traits = tokenizer, traits

    @cached_property
    def compiler(self) -> Compiler:
        tokenizer = self.tokenizer
        silent = tokenizer.special_ids | {self.traits.mask_id}
        tokens = tuple(b"" if id in silent else tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size))
        return Compiler(Vocabulary(tokens, tokenizer.spelling.artificial_space))

    def constrained(self, request: Request, specs: Sequence[Spec], stop: Sequence[str]) -> Request:
        """The request under its specs. ConstraintError where they cannot be kept within it."""
        if not specs:
            return request
        if len(specs) > 1:
            raise ConstraintError(f"constraints may hold one hard constraint, got {len(specs)}")
        if stop:
            raise ConstraintError("stop cannot be given beside a constraint: it would cut the text short")
        return replace(request, constraint=self.compiler.start(specs[0], request.stop_ids, request.max_tokens))


def judged(specs: Sequence[Spec], text: str) -> Verdict | None:
    """What a judge that had no part in the text says of it; None without a constraint."""
    verdicts = [check(spec, text) for spec in specs]
    return next((verdict for verdict in verdicts if verdict.status != "satisfied"), verdicts[0] if verdicts else None)
