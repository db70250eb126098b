"""Builds a tokenizer core from the metadata of a GGUF file, which has a vocabulary but no pre-tokenizer.

The file only names how text is split ("smollm", "qwen2", ...), so the split rules of the named tokenizers stand here.
A name that is not here is refused: a wrong split gives valid ids and silently worse text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from typing import Any

from tokenizers import AddedToken, Regex, normalizers
from tokenizers import Tokenizer as Core
from tokenizers.decoders import ByteFallback, ByteLevel, Fuse, Replace, Sequence, Strip
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel as ByteLevelSplit
from tokenizers.pre_tokenizers import Digits, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as Splits

Fields = Mapping[str, object]

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_WORDS}|\p{{N}}|{_REST}"
# Tekken also cuts where an upper-case run meets lower case, and keeps slashes with the punctuation before them.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, one per token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def _split(pattern: str) -> PreTokenizer:
    regex = Split(Regex(pattern), behavior="isolated")
    return Splits([regex, ByteLevelSplit(add_prefix_space=False, use_regex=False)])


def _gpt2() -> PreTokenizer:
    return ByteLevelSplit(add_prefix_space=False)


def _smollm() -> PreTokenizer:
    return Splits([Digits(individual_digits=True), _gpt2()])


_PRE_TOKENIZERS: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "llama-bpe": lambda: _split(_LLAMA3),
    "qwen2": lambda: _split(_QWEN2),
    "tekken": lambda: _split(_TEKKEN),
}
# These vocabularies were made from ranks: a whole word that is an entry is taken as it is, and text starts with bos.
_FROM_RANKS = frozenset({"llama-bpe", "tekken"})
_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # spelled so in the format
    "mask_token": "mask_token_id",
}


def build_core(fields: Fields) -> Core:
    """The `tokenizers` object for the metadata `fields`.

    Raises ValueError when the kind of vocabulary or its pre-tokenizer is not supported, or a field is missing.
    """
    kind = _field(fields, "model")
    if kind == "gpt2":
        core = _byte_level_bpe(fields)
    elif kind == "llama":
        core = _sentencepiece_bpe(fields)
    else:
        raise ValueError(f"tokenizer.ggml.model {kind!r} is not supported: use 'gpt2' or 'llama'")
    typed = list(zip(_tokens(fields), _types(fields), strict=True))
    # Matched as they stand, never inside normalised text. Special ones are control: plain text may not spell them.
    control = [text for text, kind in typed if kind in (TokenType.CONTROL, TokenType.UNKNOWN)]
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    core.add_tokens([AddedToken(text, normalized=False) for text, kind in typed if kind == TokenType.USER_DEFINED])
    return core


def special_tokens(fields: Fields) -> dict[str, str]:
    """Text of the tokens with a role ("bos_token", "eos_token", ...), as chat templates name them."""
    tokens = _tokens(fields)
    ids = {role: fields.get(f"tokenizer.ggml.{key}") for role, key in _ROLES.items()}
    return {role: tokens[id] for role, id in ids.items() if isinstance(id, int) and 0 <= id < len(tokens)}


def eos_ids(fields: Fields) -> tuple[int, ...]:
    """Ids that end a generation: end of sequence, of turn, of message."""
    ids = [fields.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    return tuple(dict.fromkeys(id for id in ids if isinstance(id, int)))


def add_bos(fields: Fields) -> bool:
    """Whether a text starts with the bos token: as the file says, else as the format's readers assume."""
    default = fields.get("tokenizer.ggml.model") == "llama" or fields.get("tokenizer.ggml.pre") in _FROM_RANKS
    return bool(fields.get("tokenizer.ggml.add_bos_token", default))


def chat_template(fields: Fields) -> str | None:
    """The Jinja source of the chat template, if the file has one."""
    template = fields.get("tokenizer.chat_template")
    return template if isinstance(template, str) else None


def _byte_level_bpe(fields: Fields) -> Core:
    pre = fields.get("tokenizer.ggml.pre")
    if pre not in _PRE_TOKENIZERS:
        raise ValueError(f"tokenizer.ggml.pre {pre!r} is not supported: use one of {', '.join(_PRE_TOKENIZERS)}")
    merges = [tuple(merge.split(" ")) for merge in _field(fields, "merges")]
    core = Core(BPE(vocab=_vocabulary(fields), merges=merges, ignore_merges=pre in _FROM_RANKS))
    core.pre_tokenizer = _PRE_TOKENIZERS[str(pre)]()
    core.decoder = ByteLevel()
    if pre == "qwen2":  # Qwen normalises text; the name of its split stands for both
        core.normalizer = normalizers.NFC()
    return core


def _sentencepiece_bpe(fields: Fields) -> Core:
    vocab = _vocabulary(fields)
    unknown = special_tokens(fields).get("unk_token")
    merges = list(_merges(fields, vocab))
    core = Core(BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    undo = [Replace("▁", " "), ByteFallback(), Fuse()]
    if fields.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend("▁"))
        undo.append(Strip(" ", 1, 0))
    core.normalizer = normalizers.Sequence(steps)
    core.decoder = Sequence(undo)
    return core


def _merges(fields: Fields, vocab: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Merges as the file lists them, else every way to make an entry of two others: best score, longest left first.

    Only ordinary entries take part, so that text spelling a control token cannot merge into it.
    """
    if "tokenizer.ggml.merges" in fields:
        yield from (tuple(merge.split(" ")) for merge in _field(fields, "merges"))
        return
    typed = zip(vocab, _types(fields), _field(fields, "scores"), strict=True)
    scores = {entry: score for entry, kind, score in typed if kind in (TokenType.NORMAL, TokenType.USER_DEFINED)}
    pairs = (
        (-score, -cut, left, right)
        for entry, score in scores.items()
        for cut in range(1, len(entry))
        if (left := entry[:cut]) in scores and (right := entry[cut:]) in scores
    )
    yield from ((left, right) for *_, left, right in sorted(pairs))


def _vocabulary(fields: Fields) -> dict[str, int]:
    tokens = _tokens(fields)
    vocab = {token: id for id, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise ValueError(f"tokenizer.ggml.tokens has {len(tokens) - len(vocab)} entries twice: each must be unique")
    return vocab


def _tokens(fields: Fields) -> list[str]:
    return list(_field(fields, "tokens"))


def _types(fields: Fields) -> list[int]:
    types = fields.get("tokenizer.ggml.token_type")
    return list(types) if isinstance(types, list) else [TokenType.NORMAL] * len(_tokens(fields))


def _field(fields: Fields, name: str) -> Any:
    try:
        return fields[f"tokenizer.ggml.{name}"]
    except KeyError:
        raise ValueError(f"the GGUF file has no tokenizer.ggml.{name}: it holds no usable tokenizer") from None
