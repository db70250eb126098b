"""Self-distillation: the base model writes its own answers to many prompts, for a drafter to learn from.

Usage: python scripts/distill.py PROMPTS.jsonl OUT.jsonl [--tokens N] [--limit N]. A line of PROMPTS has `messages` (a
chat to answer) or `prompt` (text to continue); a line of OUT adds the answer. What OUT has already is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.progress import track

from unmask import LM

AT_A_TIME = 32
# Users decode greedily and with some temperature; a drafter should know both kinds of text.
TEMPERATURES = (0.0, 0.7)


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def answered(line: dict[str, Any], text: str) -> dict[str, Any]:
    if "messages" in line:
        return {"messages": [*line["messages"], {"role": "assistant", "content": text}]}
    return {"prompt": line["prompt"], "completion": text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--limit", type=int, default=None)
    given = parser.parse_args()
    done = sum(1 for _ in lines_of(given.out)) if given.out.exists() else 0
    todo = list(enumerate(islice(lines_of(given.prompts), given.limit)))[done:]
    lm = LM.load(given.model)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("a", encoding="utf-8") as out:
        for start in track(range(0, len(todo), AT_A_TIME)):
            streams = []
            for number, line in todo[start : start + AT_A_TIME]:
                ids = lm.encode_chat(line["messages"]) if "messages" in line else lm.encode(line["prompt"])
                temperature = TEMPERATURES[number % len(TEMPERATURES)]
                options = {"mode": "ar", "max_tokens": given.tokens, "temperature": temperature, "seed": number}
                streams.append(lm.stream(ids, **options))
            for (_, line), stream in zip(todo[start : start + AT_A_TIME], streams, strict=True):
                out.write(json.dumps(answered(line, lm.finish(stream).text), ensure_ascii=False) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
