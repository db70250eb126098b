"""`POST /v1/patches`: a file's contents and where it is wrong come in, a diff goes out. No path is ever opened.

Commands that judge a patch are named by the request and known by the server: it runs those it was started with, in the
sandbox, on the contents that were sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from unmask.lm.patching import patch, patch_all
from unmask.patching import VerifierError
from unmask.patching.oracles.commands import Command
from unmask.patching.oracles.copies import check_name
from unmask.patching.oracles.specs import oracle_of
from unmask.patching.plain import as_object, series_object
from unmask.patching.showing import FILES, LONGEST
from unmask.server.body import read
from unmask.server.borrowed import Borrowed
from unmask.server.errors import ApiError, bad, broken
from unmask.server.leaving import ClientGoneError, unless_client_leaves
from unmask.server.logs import NOTES
from unmask.server.openapi import takes
from unmask.server.schema import MODES, VARIANTS, Count, Int64, Name, Share
from unmask.server.service import Service, said
from unmask.server.strict import Strict
from unmask.server.worker import LostError

Place = Annotated[str, Field(max_length=256)]
SECONDS = 30.0  # of processor time that a command may take on one candidate


class PatchBody(Strict):
    model: Name | None = Field(None, description="A served name; the first one if left out.")
    content: str = Field(description="The file as it is.")
    path: Name = Field("file.py", description="Its name, for the diff and for commands; it is never opened.")

    lines: Place | None = Field(None, description="Where to patch: whole lines, as in 12-15.")
    range: Place | None = Field(None, description="Or columns in characters from 1, the end left out: 12:5-12:20.")
    symbol: Place | None = Field(
        None, description="Or a class or function: Cls.meth, Cls.meth:body, Cls.meth:signature."
    )
    marker: Place | None = Field(None, description="Or a text that stands in the file once.")
    from_diagnostic: Literal["python", "ruff", "pytest", "traceback"] | None = Field(
        None, description="Or what a tool says; python and ruff are asked here."
    )
    report: str | None = Field(None, description="What the tool printed.")
    code: Name | None = Field(None, description="Only a diagnostic with this code.")

    max_faults: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None,
        description="With python or ruff: so many faults at most, one after the other; see `patches` of the reply.",
    )

    instruction: Annotated[str, Field(max_length=LONGEST)] | None = Field(
        None, description="What is wanted: shown to the model as a comment above the part, and not written."
    )
    context: Annotated[dict[str, str], Field(max_length=FILES)] | None = Field(
        None, description="Texts of more files, by name, that the model sees before this one, as far as there is room."
    )

    grow: Literal["expr", "stmt", "block", "def"] | None = Field(None, description="What the part may grow to.")
    candidates: Annotated[int, Field(ge=1, le=16)] = Field(4, description="Fillings tried at each level.")
    checks: Annotated[list[Name], Field(max_length=8)] | None = Field(
        None, description="Names of the server's commands that have to succeed."
    )
    oracles: Annotated[list[dict[str, Any]], Field(max_length=8)] | None = Field(
        None, description="What else has to hold: {type: calls}, layers, sqlalchemy or ruff; nothing is run."
    )
    files: Annotated[dict[str, str], Field(max_length=256)] | None = Field(
        None, description="More files for the commands, by relative path."
    )

    layout: Literal["in-place", "psm", "spm"] | None = Field(None, description="How the gap is shown to the model.")
    max_tokens: Count | None = Field(None, description="Most tokens of a filling.")
    seed: Int64 | None = Field(None, description="Of the noise of sampled candidates.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="0 if left out: greedy candidates come first then."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="Only the likeliest that make this up.")
    generation_mode: MODES | None = Field(None, description="How to decode.")
    spec_variant: VARIANTS | None = Field(None, description="self-speculation: how to draft and verify.")
    block_size: Count | None = Field(None, description="fastdiffuser: tokens denoised together.")
    steps: Count | None = Field(None, description="fastdiffuser: most denoise steps per block.")
    confidence_threshold: Share | None = Field(None, description="fastdiffuser: place every token at least this sure.")
    constraints: Annotated[list[dict[str, Any]], Field(max_length=16)] | None = Field(
        None, description="What every filling must obey by construction, as in completions."
    )


ASKED = (
    *("lines", "range", "symbol", "marker", "from_diagnostic", "report", "code", "grow", "candidates"),
    *("instruction", "context"),
)
FILLING = (
    *("layout", "max_tokens", "seed", "temperature", "top_p", "spec_variant", "block_size", "steps"),
    *("confidence_threshold", "constraints"),
)


def add_patches(app: FastAPI, service: Service) -> None:
    @app.post("/v1/patches", openapi_extra=takes(PatchBody))
    async def patches(request: Request) -> Response:
        """Patch a part of a file: what was wrong has to be gone, and nothing new may be."""
        body = await read(service, request, PatchBody)
        model = service.check_model(body.model)
        given = wanted(body, service.settings.patch_checks)
        service.admit(body.candidates)
        lm = Borrowed(service)
        task = asyncio.ensure_future(asyncio.to_thread(patched, lm, body, given))
        task.add_done_callback(lambda _: free(service, body.candidates, task))
        try:
            async with asyncio.timeout(service.settings.request_seconds):
                found = await unless_client_leaves(request.receive, waited(task))
        except TimeoutError:
            limit = f"{service.settings.request_seconds:g} s"
            raise ApiError(504, f"the patch took longer than {limit}", code="request_timeout") from None
        except ClientGoneError:
            request.scope[NOTES]["gone"] = True
            return Response()
        finally:
            lm.close()
        return JSONResponse({"object": "patch", "model": model, **found})


async def waited(task: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
    """The task's result; it goes on to its end even if nobody waits any more."""
    return await asyncio.shield(task)


def free(service: Service, choices: int, task: asyncio.Future[dict[str, Any]]) -> None:
    service.held -= choices
    if not task.cancelled():
        task.exception()  # nobody may be left to be told


def wanted(body: PatchBody, known: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `lm.patching.patch`. ApiError for a command that the server does not know."""
    given = {name: value for name in (*ASKED, *FILLING) if (value := getattr(body, name)) is not None}
    if body.generation_mode is not None:
        given["mode"] = body.generation_mode
    commands = list[Command]()
    try:
        check_name(body.path)
        files = {check_name(name): text.encode() for name, text in (body.files or {}).items()}
    except ValueError as error:
        raise bad(str(error), "files" if body.files else "path") from None
    for name in body.checks or ():
        if name not in known:
            names = ", ".join(known) or "none"
            raise bad(f"check {name!r} is not one of this server's: {names}", "checks")
        commands.append(Command(known[name], body.path, files=files, seconds=SECONDS, name=name))
    try:
        static = [oracle_of(one, body.path, static=True) for one in body.oracles or ()]
    except ValueError as error:
        raise bad(str(error), "oracles") from None
    return given | {"oracles": (*static, *commands)}


def patched(lm: Borrowed, body: PatchBody, given: Mapping[str, Any]) -> dict[str, Any]:
    """The reply but for its head. On a thread of its own: to compare two long texts takes a while."""
    try:
        if body.max_faults is not None:
            return series_object(patch_all(lm, body.content, body.path, body.max_faults, given))
        return as_object(patch(lm, body.content, body.path, given))
    except LostError:
        raise broken() from None
    except VerifierError as error:
        raise ApiError(422, str(error), param="checks", code="verifier_failed") from None
    except ValueError as error:
        raise said(error) from None
