"""Security headers stand on every answer of the dispatcher, whatever it answers."""

from typing import Any

import pytest

from aos_dispatcher.edge import Edge

PRIVATE = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/api/log/head", 200),
        ("POST", "/api/job/submit", 400),
        ("GET", "/api/job/submit", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/ws", 404),
        ("GET", "/api/attestation?nonce=x", 422),
    ],
)
async def test_headers_of_every_kind_of_answer(network: Any, method: str, path: str, status: int) -> None:
    await network.dispatcher.sequencer.step()  # the empty log has a head from now on
    answer = await network.client.request(method, path)
    assert answer.status_code == status
    shown = {name: answer.headers.get(name) for name in PRIVATE}
    assert shown == PRIVATE
    assert "strict-transport-security" not in answer.headers


async def test_the_page_that_shows_the_api_may_load_what_it_is_made_of_and_nothing_else(network: Any) -> None:
    answer = await network.client.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200
    for part in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    assert "https://cdn.jsdelivr.net/" in answer.text
    assert "script-src https://cdn.jsdelivr.net " in policy


async def test_a_defect_of_ours_is_answered_in_the_api_s_form_and_says_nothing(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("postgres://user:password@host")

    monkeypatch.setattr(type(network.dispatcher), "ping_database", fail)
    answer = await network.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        500,
        {"code": 500, "message": "the dispatcher failed; its log says why"},
    )
    assert {name: answer.headers.get(name) for name in PRIVATE} == PRIVATE


async def test_an_answer_that_says_how_long_it_may_be_stored_keeps_that() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"Cache-Control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("it has no body to read")

    await Edge(app, tls=False)({"type": "http", "path": "/"}, receive, send)
    kept = [value for name, value in sent[0]["headers"] if name.lower() == b"cache-control"]
    assert kept == [b"max-age=60"]
