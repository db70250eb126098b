"""Fill the measured parts of README.md from benchmarks/results/, so that no number in it was typed by hand.

Usage: python scripts/readme.py [--check]. A part stands between <!-- name --> and <!-- /name -->.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def demo() -> str:
    shown = (RESULTS / "demo.txt").read_text(encoding="utf-8").rstrip()
    return f"```text\n$ unmask demo\n{shown}\n```"


def against_transformers() -> str:
    found = json.loads((RESULTS / "against_transformers.json").read_text(encoding="utf-8"))
    lines = [
        f"{found['what']}; {found['machine']['processor']}, {found['machine']['threads']} threads,"
        f" torch {found['versions']['torch']}, transformers {found['versions']['transformers']}.",
        "",
        "| dtype | | prefill tokens/s | decode tokens/s | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['dtype']} | {row['peer']} | {row['prefill']:.0f} | {row['decode']:.1f} | {row['peak_mb']:.0f} |"
        )
    return "\n".join(lines)


def times() -> str:
    found = json.loads((RESULTS / "times.json").read_text(encoding="utf-8"))
    return (
        f"From a fresh clone on the same machine: `make demo` {found['demo_seconds']} s with the downloads,"
        f" `make test` {found['test_seconds']} s after that."
    )


PARTS: dict[str, Callable[[], str]] = {
    "demo": demo,
    "against_transformers": against_transformers,
    "times": times,
}


def filled(text: str) -> str:
    """README text with every part made anew."""
    for name, part in PARTS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
        try:
            made = part()
        except FileNotFoundError as error:
            made = f"Not measured yet: there is no {Path(error.filename).name}."
        text, count = pattern.subn(lambda match, made=made: f"{match[1]}{made}\n{match[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"README.md: expected the part {name} once, found it {count} times")
    return text


def main() -> None:
    path = ROOT / "README.md"
    now = path.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(0 if filled(now) == now else "README.md is stale: run  python scripts/readme.py")
    path.write_text(filled(now), encoding="utf-8")


if __name__ == "__main__":
    main()
