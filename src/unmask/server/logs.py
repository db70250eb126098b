"""Log lines as text or JSON: who asked for what in which mode and how long it took. No prompts, no keys."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from unmask.lm import Generation

FIELDS = "unmask_fields"  # of a log record
NOTES = "unmask_notes"  # of an ASGI scope: what a route adds to the log line of its request


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        fields = getattr(record, FIELDS, {})
        tail = " ".join(f"{name}={json.dumps(value, default=str)}" for name, value in fields.items())
        return super().formatMessage(record) + (f" {tail}" if tail else "")


def ended(generations: Sequence[Generation]) -> dict[str, Any]:
    """What a log line says of the generations of a request."""
    if not generations:
        return {}
    return {
        "tokens": sum(generation.stats.tokens for generation in generations),
        "forwards": sum(generation.stats.nfe for generation in generations),
        "finish": ",".join(sorted({generation.finish_reason for generation in generations})),
    }


def set_up(kind: str) -> None:
    """Send the logs of the server and of uvicorn to stderr. kind: "text" or "json"."""
    if kind not in ("text", "json"):
        raise ValueError(f"log format must be 'text' or 'json', got {kind!r}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if kind == "json" else TextLines())
    for name in ("unmask.server", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
