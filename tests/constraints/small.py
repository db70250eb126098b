"""A small vocabulary for the tiny random decoder of the engine's tests, and constraints of every kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.engine.tiny import MASK, VOCAB
from unmask.constraints import Compiler, Spec, Vocabulary, check, spec_of
from unmask.types import Diffusion, Ids, Request, Sampling, Speculation, Traits

STOP = MASK - 1
_LETTERS = [
    *'abc01-.:,"{}[]() ntruefalsy+*\n\\xéü',
    '"a"',
    '":',
    '",',
    "{}",
    '": ',
    "ab",
    "abc",
    "00",
    '{"a',
    "tru",
    '"}',
]
_BYTES = list(dict.fromkeys(piece if isinstance(piece, bytes) else piece.encode() for piece in _LETTERS))
_BYTES = [
    data for piece in _BYTES for data in ([piece] if len(piece) != 2 or piece[0] < 128 else [piece[:1], piece[1:]])
]
_BYTES = list(dict.fromkeys(_BYTES))
assert len(_BYTES) < STOP
TOKENS = Vocabulary((*_BYTES, *(b"",) * (VOCAB - len(_BYTES))))

SPECS: dict[str, dict[str, Any]] = {
    "regex": {"type": "regex", "pattern": "(ab|a0){2,4}-[01]+(é|x)?"},
    "loop": {"type": "regex", "pattern": "a[ab]*"},
    "choice": {"type": "choice", "values": ["true", "false", "false alarm", "0"]},
    "json_object": {"type": "json_object"},
    "schema": {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {
                "a": {"type": "string", "maxLength": 6},
                "ab": {"type": "array", "items": {"enum": [0, 1, "a", None]}, "maxItems": 3},
                "abc": {"type": "boolean"},
            },
            "required": ["a", "abc"],
        },
    },
    "tree": {
        "type": "json_schema",
        "schema": {
            "$defs": {"tree": {"type": "object", "properties": {"a": {"$ref": "#/$defs/tree"}, "b": {"type": "null"}}}},
            "$ref": "#/$defs/tree",
        },
    },
    "lark": {
        "type": "grammar",
        "text": 'start: sum\n?sum: sum "+" product | product\n?product: product "*" atom | atom\n'
        'atom: /[01]+/ | "(" sum ")"\n%ignore " "',
    },
    "gbnf": {"type": "grammar", "text": 'root ::= "{" root "}" | "[" (root ",")* "]" | [ab]+'},
}
MODES: dict[str, tuple[str, Any]] = {
    "ar": ("ar", None),
    "fastdiffuser": ("fastdiffuser", Diffusion(block_size=8, confidence_threshold=0.3)),
    "seeded": ("fastdiffuser", Diffusion(block_size=5, confidence_threshold=None, steps=3, seed_first=True)),
    "revising": ("fastdiffuser", Diffusion(block_size=8, confidence_threshold=0.1, revision_threshold=0.05)),
    "linearspec": ("linearspec", Speculation(draft_block_size=6)),
    "stepwise": ("linearspec", Speculation(draft_block_size=6, draft_threshold=0.2)),
    "quadspec": ("quadspec", Speculation(draft_block_size=5)),
    "adaptivespec": ("adaptivespec", Speculation(draft_block_size=6, costs=((1, 1.0), (60, 1.2)))),
}
SPECULATIVE = [name for name in MODES if MODES[name][0] not in ("ar", "fastdiffuser")]
_compiler = Compiler(TOKENS)


def spec(name: str) -> Spec:
    return spec_of(SPECS[name])


def request(
    name: str,
    mode: str = "ar",
    max_tokens: int = 24,
    seed: int = 0,
    sides: tuple[str, str] = ("", ""),
    **fields: Any,
) -> Request:
    """A constrained request. seed: of its prompt and its noise. sides: texts before and after the constrained one."""
    fields = {"stop_ids": (STOP,), "sampling": Sampling(), **fields}
    strategy, settings = MODES[mode]
    made = Request(
        tuple((7 * seed + 3 * i * i + seed // 5) % 50 for i in range(5)),
        max_tokens,
        strategy,
        settings,
        traits=Traits(MASK, draft_adapter="draft"),
        **fields,
    )
    before, after = (side.encode() for side in sides)
    return replace(made, constraint=_compiler.start(spec(name), made.stop_ids, max_tokens, before, after))


def text_of(output: Ids) -> str:
    """The text of an output, which must be whole."""
    return b"".join(TOKENS.tokens[id] for id in output if id != STOP).decode()


def obeys(name: str, output: Ids, max_tokens: int, sides: tuple[str, str] = ("", "")) -> None:
    assert len(output) <= max_tokens
    assert MASK not in output
    assert STOP not in output[:-1]
    text = text_of(output).join(sides)
    verdict = check(spec(name), text)
    if SPECS[name].get("text", "").startswith("root"):
        assert nested(text)
    else:
        assert verdict.status == "satisfied", (text, verdict)


def nested(text: str) -> bool:
    """Whether a text is of the GBNF grammar above, read by hand."""
    if text.startswith("{"):
        return text.endswith("}") and nested(text[1:-1])
    if not text.startswith("["):
        return bool(text) and set(text) <= set("ab")
    if not text.endswith("]"):
        return False
    depth, start = 0, 1
    for i, letter in enumerate(text[1:-1], start=1):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            if not nested(text[start:i]):
                return False
            start = i + 1
    return start == len(text) - 1
