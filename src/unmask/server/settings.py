"""What one server may do: names, keys, limits, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from unmask.types import Oracle

# A request that says nothing gets OpenAI's temperature; their limit of tokens would be the rest of the context.
DEFAULTS: Mapping[str, Any] = MappingProxyType({"temperature": 1.0, "max_tokens": 1024})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """names: what the model is called in requests; the first one is used in replies.
    defaults: options of `lm.Options` for requests that do not choose; those of another mode than a request's are left
        out. api_keys: any of them opens the door; empty: no key is asked for.
    max_context: longest prompt plus output, in tokens; None is the model's own. max_queue: requests that wait for their
        turn; more get 429. max_choices: prompts x n of one request.
    body_bytes, body_seconds: largest body, and how long it may take to arrive. request_seconds: longest generation.
    shutdown_seconds: how long running requests may go on after the first SIGTERM.
    keep_alive_seconds: a comment is sent on a stream that was silent for so long. frames_held: frames kept for a reader
        that is slower than the engine; older ones are dropped.
    patch_checks: commands that a request may have a patch judged by, by name (see `patches`).
    oracles: soft constraints that a request may ask for by name; code never comes in a request.
    """

    names: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    max_context: int | None = None
    max_queue: int = 256
    max_choices: int = 64
    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    shutdown_seconds: float = 30.0
    keep_alive_seconds: float = 15.0
    frames_held: int = 64
    patch_checks: Mapping[str, str] = field(default_factory=dict)
    oracles: Mapping[str, Oracle] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("max_queue", "frames_held"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("max_choices", "body_bytes", "body_seconds", "request_seconds", "keep_alive_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name, command in self.patch_checks.items():
            if not name or not command.strip():
                raise ValueError(f"patch_checks must name commands, got {name!r}: {command!r}")
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(f"max_context must be at least 2, got {self.max_context}")
        if not self.shutdown_seconds >= 0:
            raise ValueError(f"shutdown_seconds must be 0 or more, got {self.shutdown_seconds}")
