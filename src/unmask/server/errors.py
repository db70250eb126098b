"""Every error as OpenAI's clients read it: {"error": {"message", "type", "param", "code"}}. Nothing else gets out."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}
LONGEST_MESSAGE = 1000  # a message may quote what was sent


class ApiError(Exception):
    """An answer that is an error. `message` goes to the client: no path, no key, no traceback."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    @property
    def body(self) -> dict[str, Any]:
        message = " ".join(self.message.split())
        if len(message) > LONGEST_MESSAGE:
            message = message[:LONGEST_MESSAGE] + " ..."
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def bad(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """What the client can mend by asking differently."""
    return ApiError(400, message, param=param, code=code)


def broken() -> ApiError:
    """Our fault. What happened is in the server's log, not in the reply."""
    return ApiError(500, "the server failed to run this request; its log says why", code="internal_error")
