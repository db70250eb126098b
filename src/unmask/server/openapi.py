"""Request bodies in the OpenAPI document: our routes read and check them themselves, so FastAPI does not know them."""

from __future__ import annotations

from typing import Any

from unmask.server.errors import TYPES
from unmask.server.strict import Strict


def takes(kind: type[Strict]) -> dict[str, Any]:
    """What to add to a route whose body is a `kind`."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})
    body = {"required": True, "content": {"application/json": {"schema": inlined(schema, parts)}}}
    responses = {str(status): {"description": name.replace("_", " ")} for status, name in TYPES.items()}
    more = {"400": "what to ask differently", "408": "slow body", "413": "large body", "415": "not JSON"}
    return {"requestBody": body, "responses": responses | {s: {"description": text} for s, text in more.items()}}


def inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """The schema with its references replaced by what they mean."""
    if isinstance(schema, list):
        return [inlined(part, parts) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if name := str(schema.get("$ref", "")).removeprefix("#/$defs/"):
        return inlined({**parts[name], **{k: v for k, v in schema.items() if k != "$ref"}}, parts)
    return {key: inlined(value, parts) for key, value in schema.items()}
