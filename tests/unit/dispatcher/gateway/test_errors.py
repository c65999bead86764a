"""Errors have OpenAI's form and DBC's under /v1, and the API's own elsewhere."""

import json
from contextlib import suppress
from typing import Any

import pytest

from aos_dispatcher.edge import Edge
from aos_dispatcher.errors import (
    ApiError,
    Conflict,
    Forbidden,
    LogDamaged,
    NotFound,
    TooLarge,
    TooMany,
    Unauthorized,
    Unavailable,
)
from aos_dispatcher.gateway.errors import BadRequest, NotServed, UnknownModel, error_body, said_plainly
from aos_dispatcher.http_bounds import Gate

CHAT, SUBMIT = "/v1/chat/completions", "/api/job/submit"


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (BadRequest("x", param="n"), 400, "invalid_request_error", "invalid_value"),
        (Unauthorized("x"), 401, "authentication_error", "invalid_api_key"),
        (Forbidden("x"), 403, "permission_error", "permission_denied"),
        (UnknownModel("x"), 404, "invalid_request_error", "model_not_found"),
        (NotFound("x"), 404, "invalid_request_error", None),
        (Conflict("x"), 409, "invalid_request_error", None),
        (TooLarge("x"), 413, "invalid_request_error", None),
        (TooMany("x", "token", 1), 429, "rate_limit_error", "rate_limit_exceeded"),
        (LogDamaged("x"), 500, "server_error", None),
        (NotServed("x"), 503, "server_error", "model_unavailable"),
        (Unavailable("x"), 503, "server_error", None),
    ],
)
def test_every_kind_of_error(error: ApiError, status: int, kind: str, code: str | None) -> None:
    body = error_body(CHAT, error)
    assert (body["code"], body["message"]) == (status, str(error))
    param = "n" if isinstance(error, BadRequest) else None
    assert body["error"] == {"message": str(error), "type": kind, "param": param, "code": code}
    plain = error_body(SUBMIT, error)
    assert plain == {"code": status, "message": str(error)} | error.details


def test_details_stand_beside() -> None:
    assert error_body(CHAT, TooMany("x", "dispatcher", 1, 7))["position"] == 7


def test_what_the_framework_says_has_the_same_forms() -> None:
    assert said_plainly(SUBMIT, 405, "no") == {"code": 405, "message": "no"}
    assert said_plainly(CHAT, 405, "no")["error"]["type"] == "invalid_request_error"
    assert said_plainly(SUBMIT, 404, "no") == {"code": 404, "message": "no"}
    nowhere = said_plainly("/v1/responses", 404, "no")["message"]
    assert nowhere.startswith("there is no /v1/responses here, but /v1/chat/completions, ")


async def nothing(_scope: Any, _receive: Any, _send: Any) -> None:
    """An application that does not answer."""


async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
    """An application with a defect."""
    raise RuntimeError("postgres://user:password@host")


async def answer_of(app: Any, path: str) -> tuple[int, Any]:
    """The status and JSON of what an ASGI application answers."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    with suppress(RuntimeError):
        await app({"type": "http", "path": path, "method": "POST", "headers": []}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize("app", [Gate(nothing, most=0), Edge(broken, tls=False)])
async def test_what_never_reaches_an_endpoint_is_told_in_the_path_s_form(app: Any) -> None:
    status, plain = await answer_of(app, SUBMIT)
    assert plain == {"code": status, "message": plain["message"]}
    assert "password" not in plain["message"]
    error = {"message": plain["message"], "type": "server_error", "param": None, "code": None}
    assert await answer_of(app, CHAT) == (status, plain | {"error": error})
