"""The OpenAPI document is true enough to generate requests from, and none of them is answered with a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error

from tests.server.serving import Running

POSTED = ("/v1/chat/completions", "/v1/completions", "/v1/patches", "/tokenize", "/detokenize")
ROUTES = {
    *POSTED,
    *("/v1/models", "/v1/models/{name}", "/health", "/health/live", "/health/ready", "/metrics"),
}
CASES = [(route, GenerationMode.POSITIVE) for route in sorted(ROUTES)]
CASES += [(route, GenerationMode.NEGATIVE) for route in POSTED]  # the others have nothing that could be wrong


def test_all_routes_are_described(server: Running) -> None:
    document = server.client.get("/openapi.json").json()
    assert document["paths"].keys() == ROUTES
    body = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["additionalProperties"] is False
    assert body["required"] == ["prompt"]
    assert all("description" in field for field in body["properties"].values())


@pytest.mark.parametrize(("route", "mode"), CASES, ids=lambda value: getattr(value, "value", value))
def test_generated_requests_are_never_a_server_error(server: Running, route: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())
    found: Any = next(iter(schema.include(path=route).get_all_operations()))
    operation = found.ok()
    with requests.Session() as session:

        @settings(max_examples=30, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(mode))
        def check(case: Case[Any]) -> None:
            if isinstance(case.body, dict) and "max_tokens" not in case.body:
                case.body["max_tokens"] = 2  # or a test would wait for a thousand tokens
            reply = case.call(base_url=server.url, session=session, timeout=30)
            case.validate_response(reply, checks=[not_a_server_error])
            assert reply.status_code in (200, 400, 404, 413), reply.text

        check()
