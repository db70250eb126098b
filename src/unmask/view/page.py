"""Whole pages in one file: our own script and style inside, allowed by their hashes and nothing else, no network.

The sources are plain modules under `page/`; those of a page are joined into one script here, without a build step.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', flags=re.MULTILINE)
PART = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Page:
    """html: the whole page. policy: its Content-Security-Policy, which the html states too, but for framing."""

    html: str
    policy: str


@cache
def asset(name: str) -> str:
    """A source file of the pages."""
    return files("unmask.view").joinpath("page", name).read_text(encoding="utf-8")


def joined(entry: str) -> str:
    """The module `entry` and all that it imports as one script, each after those that it needs."""
    order = list[str]()

    def visit(name: str) -> None:
        for needed in IMPORT.findall(asset(name)):
            visit(needed)
        if name not in order:
            order.append(name)

    visit(entry)
    return "\n".join(re.sub(r"^export ", "", IMPORT.sub("", asset(name)), flags=re.MULTILINE) for name in order)


def embedded(data: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page(name: str, title: str, *, styles: tuple[str, ...] = (), data: Any = None, connect: bool = False) -> Page:
    """The page `name`.html with `name`.mjs. {parts} of it are other files of that name.

    styles: sheets beside the common one. data: what the script finds, as JSON, in the element "data".
    connect: whether it may ask the server that it came from.
    """
    body = PART.sub(lambda part: asset(f"{part[1]}.html").rstrip("\n"), asset(f"{name}.html"))
    script, style = joined(f"{name}.mjs"), "\n".join(map(asset, ("style.css", *styles)))
    allowed = [
        "default-src 'none'",
        f"script-src {hash_of(script)}",
        f"style-src {hash_of(style)}",
        "img-src data:",
        "connect-src 'self'" if connect else "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    held = "" if data is None else f'<script type="application/json" id="data">{embedded(data)}</script>\n'
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{html.escape("; ".join(allowed))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}{held}<script type="module">{script}</script>
</body>
</html>
"""
    # Only a header can forbid others to frame the page.
    return Page(text, "; ".join([*allowed, "frame-ancestors 'none'"]))


def playground() -> Page:
    """What `unmask serve` shows at `/`: a page that asks the server it came from, and shows how it is answered."""
    return page("playground", "unmask playground", styles=("playground.css",), connect=True)


def hash_of(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
