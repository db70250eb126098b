"""Fill-in-the-middle tokens: which a tokenizer has, and the prompts that they are made for.

Orders: "psm" is prefix, suffix, middle; "spm" is suffix, prefix, middle, as Bavarian et al. (arXiv 2207.14255, appendix
D) train it jointly with psm, or as Mistral's models do. Having the tokens does not prove that a model was trained on
them; there is nothing else in a checkpoint that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unmask.text.tokenizer import Tokenizer

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fim:
    """prefix, suffix, middle: ids of the tokens that open each part; no middle in Mistral's form, which is spm only.

    ends: ids that end a middle, where the tokenizer has them. orders: allowed, the usual one first.
    """

    prefix: int
    suffix: int
    middle: int | None
    ends: Ids
    orders: tuple[str, ...]

    def prompt(self, before: Ids, after: Ids, order: str) -> Ids:
        """What is continued with the middle. ValueError for an order that these tokens are not made for."""
        if order not in self.orders:
            raise ValueError(f"layout must be {' or '.join(map(repr, self.orders))} for this tokenizer, got {order!r}")
        if self.middle is None:
            return (self.suffix, *after, self.prefix, *before)
        if order == "psm":
            return (self.prefix, *before, self.suffix, *after, self.middle)
        return (self.prefix, self.suffix, *after, self.middle, *before)


# (prefix, suffix, middle or none, tokens that end a middle, orders)
FAMILIES: tuple[tuple[str, str, str | None, tuple[str, ...], tuple[str, ...]], ...] = (
    (  # Qwen, CodeGemma
        *("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("<|fim_pad|>", "<|endoftext|>", "<|file_sep|>", "<|file_separator|>"),
        ("psm", "spm"),
    ),
    (  # StarCoder, Granite
        *("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("<fim_pad>", "<|endoftext|>", "<file_sep>"),
        ("psm", "spm"),
    ),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", (), ("psm",)),  # noqa: RUF001  (DeepSeek's own letters)
    ("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",), ("psm",)),  # CodeLlama
    ("[PREFIX]", "[SUFFIX]", None, (), ("spm",)),  # Mistral; its [MIDDLE] is not used
)


def fim_of(tokenizer: Tokenizer) -> Fim | None:
    """The fill-in-the-middle tokens of a tokenizer; None where it has none."""
    for prefix, suffix, middle, ends, orders in FAMILIES:
        opening = [ids_of(tokenizer, [name]) for name in (prefix, suffix, middle) if name is not None]
        if all(opening):
            (first,), (second,), *third = opening
            last = (*ids_of(tokenizer, ends), *tokenizer.eos_ids)
            return Fim(first, second, third[0][0] if third else None, tuple(dict.fromkeys(last)), orders)
    return None


def ids_of(tokenizer: Tokenizer, names: Sequence[str]) -> Ids:
    """Ids of the names that are tokens of their own."""
    found = (tokenizer.core.token_to_id(name) for name in names)
    return tuple(id for id in found if id is not None)
