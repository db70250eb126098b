"""The routes. `create_app` makes an ASGI app of a loaded model; `unmask serve` runs it under uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from unmask import __version__
from unmask.lm import LM, Generation
from unmask.server.asking import chat_prompt
from unmask.server.body import read
from unmask.server.call import Call
from unmask.server.errors import ApiError, bad
from unmask.server.gate import Gate
from unmask.server.leaving import ClientGoneError, unless_client_leaves
from unmask.server.logs import NOTES, ended
from unmask.server.openapi import takes
from unmask.server.patches import add_patches
from unmask.server.schema import Body, ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from unmask.server.service import Service
from unmask.server.settings import Settings
from unmask.server.sse import Chunks, EventStream


class Page(Protocol):
    """A page with its Content-Security-Policy, as `unmask.view.page` makes them."""

    @property
    def html(self) -> str: ...
    @property
    def policy(self) -> str: ...


def create_app(lm: LM, settings: Settings | None = None, page: Page | None = None) -> FastAPI:
    """An app that serves `lm`. While it runs, nothing else may use that LM: one thread owns its engine.

    page: what a browser is shown at `/`; None: there is no such route.
    """
    service = Service(lm, settings or Settings())

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(title="unmask", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Gate, service=service)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    add_generation(app, service)
    add_patches(app, service)
    add_tokens(app, service)
    add_state(app, service)
    if page is not None:
        add_page(app, page)
    return app


def add_generation(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", openapi_extra=takes(ChatBody))
    async def chat_completions(request: Request) -> Response:
        """Answer a chat."""
        return await answer(service, request, await read(service, request, ChatBody))

    @app.post("/v1/completions", openapi_extra=takes(CompletionBody))
    async def completions(request: Request) -> Response:
        """Continue one prompt or several."""
        return await answer(service, request, await read(service, request, CompletionBody))


def add_tokens(app: FastAPI, service: Service) -> None:
    lm = service.lm

    @app.post("/tokenize", openapi_extra=takes(TokenizeBody))
    async def tokenize(request: Request) -> Response:
        """Token ids of a text or of a chat."""
        body = await read(service, request, TokenizeBody)
        service.check_model(body.model)

        def work() -> dict[str, Any]:
            try:
                if body.messages is not None:
                    variables = body.chat_template_kwargs
                    ids = chat_prompt(lm, body.messages, variables, body.add_generation_prompt).ids
                else:
                    assert body.prompt is not None
                    ids = (
                        lm.tokenizer.encode(body.prompt) if body.add_special_tokens is False else lm.encode(body.prompt)
                    )
            except ValueError as error:
                raise bad(str(error)) from None
            found: dict[str, Any] = {"count": len(ids), "max_model_len": service.context, "tokens": ids}
            if body.return_token_strs:
                found["token_strs"] = [lm.tokenizer.token_text(id) for id in ids]
            return found

        size = len(body.prompt or "") + sum(len(message.text) for message in body.messages or ())
        return JSONResponse(await service.aside(size, work))

    @app.post("/detokenize", openapi_extra=takes(DetokenizeBody))
    async def detokenize(request: Request) -> Response:
        """Text of token ids, special tokens included."""
        body = await read(service, request, DetokenizeBody)
        service.check_model(body.model)
        if wrong := next((id for id in body.tokens if id >= lm.config.vocab_size), None):
            raise bad(f"token id {wrong} is outside the vocabulary of {lm.config.vocab_size}", "tokens")
        text = await service.aside(len(body.tokens), lambda: lm.tokenizer.decode(body.tokens, skip_special=False))
        return JSONResponse({"prompt": text})


def add_state(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The served names and what the model behind them can do."""
        return {"object": "list", "data": [service.model_card(name) for name in service.names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        return service.model_card(service.check_model(name))

    @app.get("/health")
    async def health() -> Response:
        """Live, ready, and whether the pages in use are exactly those that requests own."""
        fine, found = await service.health()
        return JSONResponse(found, 200 if fine else 503)

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @app.get("/health/ready")
    async def ready() -> Response:
        """Whether requests are let in."""
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def add_page(app: FastAPI, page: Page) -> None:
    headers = {
        "content-security-policy": page.policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        """A page for people. It holds no secret and asks for no key; what it asks this server does."""
        return HTMLResponse(page.html, headers=headers)


async def answer(service: Service, request: Request, body: Body) -> Response:
    call, form = await service.open(body)
    notes: dict[str, Any] = request.scope[NOTES]
    notes |= {"mode": call.jobs[0].follow.mode, "choices": form.choices, "stream": bool(body.stream)}
    for name in ("user", "safety_identifier"):
        if (label := getattr(body, name, None)) is not None:
            notes[name] = label
    if body.stream:
        limit = service.settings.request_seconds + service.settings.shutdown_seconds
        return EventStream(call, Chunks(form), keep_alive=service.settings.keep_alive_seconds, seconds=limit)
    try:
        generations = await unless_client_leaves(request.receive, results(call, form.choices))
    except ClientGoneError:
        notes["gone"] = True
        return Response()
    finally:
        call.cancel()
    notes |= ended(generations)
    return JSONResponse(form.whole(generations))


async def results(call: Call, choices: int) -> list[Generation]:
    done: list[Generation | None] = [None] * choices
    async for items in call.events():
        for index, event in items:
            if isinstance(event, Generation):
                done[index] = event
    return [generation for generation in done if generation is not None]


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: no such route, or no such method on it."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        text, code = f"there is no route {request.url.path[:200]}", "route_not_found"
    elif error.status_code == 405:
        text, code = f"{request.method} is not allowed on {request.url.path[:200]}", "method_not_allowed"
    else:
        text, code = str(error.detail), "http_error"
    return ApiError(error.status_code, text, code=code, headers=dict(error.headers or {})).response()


async def _validation_error(_: Request, error: Exception) -> Response:
    return bad("the request is not valid").response()
