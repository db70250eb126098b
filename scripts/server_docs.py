"""Fill the tables of docs/server.md from the code, so that no field and no flag in it was typed by hand.

Usage: python scripts/server_docs.py [--check]. A part stands between <!-- name --> and <!-- /name -->.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from unmask.cli import app
from unmask.server.fields import ALIASES, REFUSED
from unmask.server.patches import PatchBody
from unmask.server.schema import Body, ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from unmask.server.settings import DEFAULTS
from unmask.server.strict import Strict

PAGE = Path(__file__).parent.parent / "docs" / "server.md"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [" | ".join(row) for row in (head, tuple("---" for _ in head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def kind(schema: dict[str, Any]) -> str:
    """A JSON schema in few words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(part) for part in schema["anyOf"] if part.get("type") != "null"))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`".lower()
    if "$ref" in schema:
        return "object"
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'])}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None and high >= 2**31 - 1:
        high = None
    if low is not None and low <= -(2**31):
        low = None
    above = f" above {schema['exclusiveMinimum']}," if "exclusiveMinimum" in schema else ""
    bounds = f" {low} to {high}" if low is not None and high is not None else f" from {low}" if low is not None else ""
    upto = f" to {high}" if high is not None and low is None else ""
    return f"{schema.get('type', 'any')}{above}{bounds}{upto}"


def fields_of(model: type[Strict], without: type[Strict] | None = None, defaults: Mapping[str, Any] = DEFAULTS) -> str:
    left_out = without.model_fields.keys() if without else ()
    properties = model.model_json_schema()["properties"]
    rows = []
    for name, field in properties.items():
        if name not in left_out:
            text = field.get("description", "")
            default = f" `{defaults[name]}` if left out." if name in defaults else ""
            rows.append((f"`{name}`", kind(field), text + default))
    return table(("field", "value", "meaning"), rows)


def aliases() -> str:
    rows = [(f"`{name}`", alias.dialect, alias.means) for name, alias in ALIASES.items()]
    return table(("field", "spoken by", "means"), rows)


def refused() -> str:
    rows = []
    for name, refusal in REFUSED.items():
        harmless = ", ".join(f"`{value}`".replace("None", "null").replace("False", "false").replace("True", "true")
                             for value in refusal.harmless)  # fmt: skip
        rows.append((f"`{name}`", refusal.reason, harmless))
    return table(("field", "why", "let pass"), rows)


def flags() -> str:
    command: Any = typer.main.get_command(app)
    rows = []
    for flag in command.commands["serve"].params:
        names = ", ".join(f"`{name}`" for name in (*flag.opts, *flag.secondary_opts))
        default = "" if flag.default in (None, False) or callable(flag.default) else f"`{flag.default}`"
        rows.append((names, flag.help or "", default))
    return table(("flag", "meaning", "default"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "fields": lambda: fields_of(Body),
    "chat fields": lambda: fields_of(ChatBody, Body),
    "completion fields": lambda: fields_of(CompletionBody, Body),
    "patch fields": lambda: fields_of(PatchBody, defaults={}),
    "tokenize fields": lambda: fields_of(TokenizeBody),
    "detokenize fields": lambda: fields_of(DetokenizeBody),
    "aliases": aliases,
    "refused": refused,
    "flags": flags,
}


def filled(text: str) -> str:
    """The page with every part made anew."""
    for name, part in PARTS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
        text, count = pattern.subn(lambda match, part=part: f"{match[1]}{part()}\n{match[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{PAGE.name}: expected the part {name} once, found it {count} times")
    return text


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    made = filled(text)
    if "--check" in sys.argv[1:]:
        sys.exit(made != text)
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
