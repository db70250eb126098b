"""API keys: from a file or the environment, compared in constant time, never printed."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from unmask.server.errors import ApiError

ENVIRONMENT = "UNMASK_API_KEYS"
OPEN_ROUTES = ("/", "/health", "/health/live", "/health/ready", "/metrics", "/openapi.json")


def read_keys(file: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Keys of a file, one a line (empty lines and those that begin with # do not count), and of the environment,
    separated by commas. ValueError where a source was named and holds none."""
    keys = list[str]()
    if file is not None:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        keys += [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ValueError(f"the key file {file} holds no key")
    if ENVIRONMENT in environment:
        found = [key.strip() for key in environment[ENVIRONMENT].split(",") if key.strip()]
        if not found:
            raise ValueError(f"{ENVIRONMENT} is set but holds no key")
        keys += found
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise ValueError("an API key must be printable ASCII without spaces")
    return tuple(dict.fromkeys(keys))


def check_key(keys: tuple[str, ...], path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """ApiError 401 unless the route is open or a right key was sent."""
    if not keys or path in OPEN_ROUTES:
        return
    given = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, key = given.partition(b" ")
    sent = key.strip() if scheme.lower() == b"bearer" else b""
    # Every key is compared, so that the time does not tell which one was nearly right.
    if not sum([hmac.compare_digest(sent, known.encode()) for known in keys]):
        message = "send a valid API key as 'Authorization: Bearer KEY'"
        raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
