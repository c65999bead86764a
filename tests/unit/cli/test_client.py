import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from aos_cli.client import DispatcherClient
from aos_cli.failures import ApiError, BadAnswer, ReceiptRefused, Unreachable
from aos_cli.receipts import verify_receipt
from aos_protocol import sortition
from aos_protocol.canonical import digest
from aos_protocol.identity import Signer
from aos_protocol.messages import Receipt
from aos_protocol.typed_data import Domain, ReceiptClaim, sign_typed

JOB = "ab" * 32
SIGNER = Signer(b"\x07" * 32)
DOMAIN = Domain(0, "0x" + "0" * 40)
REQUEST = {
    "from": "shop",
    "tag": "",
    "user": "u",
    "job": {"tag": "opml", "prompt": "?", "model": "m", "params": {}},
}


def receipt_for(request: dict[str, Any], signer: Signer = SIGNER, sequence: int = 4) -> Receipt:
    job_id = sortition.job_id(signer.address, sequence, request)
    signature = sign_typed(signer, DOMAIN, ReceiptClaim(job_id, sequence, digest(request)))
    return Receipt(
        job_id=job_id,
        sequence=sequence,
        request_digest=digest(request),
        dispatcher=signer.address,
        signature=signature,
    )


class Server:
    """Answers every request with what `answer` makes of it, and remembers it."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer

    def client(self, token: str | None = None) -> DispatcherClient:
        return DispatcherClient(
            "http://dispatcher:8000/", token=token, transport=httpx.MockTransport(self._handle)
        )

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer(request)

    def sent(self) -> Any:
        return json.loads(self.requests[-1].content)


def answering(*bodies: Any, status: int = 200) -> Server:
    """A server that gives these JSON bodies one after the other."""
    waiting = iter(bodies)
    return Server(lambda _: httpx.Response(status, json=next(waiting)))


async def test_submit_sends_the_request_with_the_token_and_returns_the_receipt() -> None:
    receipt = receipt_for(REQUEST)
    server = answering({"code": 200, "result": receipt.job_id, "receipt": receipt.to_json()})
    async with server.client("aos_secret") as client:
        assert await client.submit(REQUEST, idempotency_key="order 1") == receipt
    assert server.sent() == REQUEST | {"verify": "aos_secret"}
    assert server.requests[0].headers["Idempotency-Key"] == "order 1"
    assert str(server.requests[0].url) == "http://dispatcher:8000/api/job/submit"
    assert "verify" not in REQUEST


async def test_a_submit_without_a_key_sends_none() -> None:
    receipt = receipt_for(REQUEST)
    server = answering({"result": receipt.job_id, "receipt": receipt.to_json()})
    async with server.client("t") as client:
        await client.submit(REQUEST)
    assert "Idempotency-Key" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"result": JOB}, f"gave job id {JOB}, and a receipt for "),
        ({"receipt": None}, "gave no receipt that can be read"),
        ({"receipt": {"job_id": JOB}}, "gave no receipt that can be read: Receipt: sequence: Field required"),
    ],
)
async def test_a_submit_s_answer_must_hold_one_receipt_for_one_job(change: dict[str, Any], why: str) -> None:
    receipt = receipt_for(REQUEST)
    answer = {"code": 200, "result": receipt.job_id, "receipt": receipt.to_json()} | change
    async with answering(answer).client() as client:
        with pytest.raises(BadAnswer, match=why):
            await client.submit(REQUEST)


async def test_queries_name_the_job_and_carry_the_token() -> None:
    detail, rows = {"status": "completed"}, [{"result": "yes"}]
    server = answering({"result": detail}, {"result": rows}, {"result": "cancelled"}, {"version": "v"})
    async with server.client("aos_secret") as client:
        assert await client.detail(JOB) == detail
        assert await client.results(JOB) == rows
        assert await client.cancel(JOB) == "cancelled"
        assert await client.evidence(JOB) == {"version": "v"}
    assert [request.url.path for request in server.requests] == [
        "/api/job/detail",
        "/api/job/result",
        "/api/job/cancel",
        f"/api/job/evidence/{JOB}",
    ]
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer aos_secret"}
    assert [json.loads(request.content) for request in server.requests[:3]] == [{"job_id": JOB}] * 3


async def test_disputes_are_asked_for_with_the_token() -> None:
    opened, found = {"challenge": 1, "status": "open"}, {"standing": "good"}
    rows = [{"verify_id": "7"}]
    server = answering(
        {"result": opened},
        {"result": opened},
        {"result": found},
        {"result": rows, "next": "7"},
        {"result": []},
    )
    async with server.client("aos_secret") as client:
        assert await client.challenge({"job_id": JOB}) == opened
        assert await client.appeal({"result": "row"}) == opened
        assert await client.standing("0xAB") == found
        assert await client.verifications({"user": "u"}) == {"result": rows, "next": "7"}
        assert await client.verifications({"user": "u"}) == {"result": [], "next": None}
    assert [(request.method, request.url.path) for request in server.requests] == [
        ("POST", "/api/job/challenge"),
        ("POST", "/api/operator/appeal"),
        ("GET", "/api/operator/standing/0xAB"),
        ("POST", "/api/job/verify"),
        ("POST", "/api/job/verify"),
    ]
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer aos_secret"}
    assert json.loads(server.requests[0].content) == {"job_id": JOB}
    assert json.loads(server.requests[3].content) == {"user": "u"}


@pytest.mark.parametrize("body", [b'{"result": 3}', b'{"result": [1]}', b"{}", b"[]"])
async def test_an_answer_about_disputes_that_cannot_be_read(body: bytes) -> None:
    async with Server(lambda _: httpx.Response(200, content=body)).client() as client:
        for call in (
            client.challenge({}),
            client.appeal({}),
            client.standing("0xAB"),
            client.verifications({}),
        ):
            with pytest.raises(BadAnswer, match=r"^http://dispatcher:8000 (is no AOS dispatcher|gave no)"):
                await call


async def test_without_a_token_nothing_is_claimed() -> None:
    server = answering({"result": []})
    async with server.client() as client:
        await client.results(JOB)
    assert "Authorization" not in server.requests[0].headers


async def test_waiting_ends_with_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aos_cli.client._POLL_S", 0)
    server = answering(*({"result": {"status": status}} for status in ("created", "dispatched", "failed")))
    async with server.client() as client:
        assert await client.until_ended(JOB) == {"status": "failed"}
    assert len(server.requests) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 413, 422, 503])
async def test_an_error_of_the_api_is_its_own_message(code: int) -> None:
    async with answering({"code": code, "message": "say what to do"}, status=code).client() as client:
        with pytest.raises(ApiError, match=rf"^say what to do \({code}\)$") as error:
            await client.detail(JOB)
    assert error.value.code == code


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'"text"', b"[" * 100_000])
async def test_an_error_without_a_message_is_its_status(body: bytes) -> None:
    async with Server(lambda _: httpx.Response(502, content=body)).client() as client:
        with pytest.raises(ApiError, match=r"^HTTP 502 Bad Gateway$"):
            await client.detail(JOB)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"result": 3}', b'{"result": {}}', b"[" * 100_000, b"\xff"]
)
async def test_what_is_no_answer_of_the_api_is_said_to_be_none(body: bytes) -> None:
    async with Server(lambda _: httpx.Response(200, content=body)).client() as client:
        for ask in (client.detail, client.results):
            with pytest.raises(BadAnswer, match=r"^http://dispatcher:8000 (is no AOS dispatcher|gave no)"):
                await ask(JOB)
        with pytest.raises(BadAnswer, match=r"is no AOS dispatcher"):
            await client.ready()


def failing(error: Exception) -> Server:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise error

    return Server(answer)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            httpx.ConnectError("refused"),
            r"nothing answers at http://dispatcher:8000 \(refused\): start a dispatcher with",
        ),
        (httpx.RemoteProtocolError(""), r"nothing answers at .* \(RemoteProtocolError\)"),
        (httpx.ReadTimeout("slow"), "did not answer in time: see its log"),
        (httpx.ConnectTimeout("slow"), "did not answer in time"),
    ],
)
async def test_who_does_not_answer(error: Exception, said: str) -> None:
    async with failing(error).client() as client:
        with pytest.raises(Unreachable, match=said):
            await client.detail(JOB)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "dispatcher",
        "ftp://dispatcher",
        "http://",
        "http://[half",
        "http://a:port",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://\0",
        "http://xn--",
        "http://127.0.0.1:1/?query",
        "http://127.0.0.1:1/#part",
    ],
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(
        Unreachable, match=r"is no address of a dispatcher: write it like http://127.0.0.1:8000"
    ):
        DispatcherClient(url)


@pytest.mark.parametrize("ahead", [-90, 0, 90])
async def test_readiness_tells_operators_and_how_far_the_clocks_are_apart(ahead: int) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    server = Server(lambda _: httpx.Response(200, json={"operators": 3}, headers={"Date": date}))
    async with server.client() as client:
        readiness = await client.ready()
    assert readiness.operators == 3
    assert readiness.skew == pytest.approx(ahead, abs=3)


@pytest.mark.parametrize("headers", [{}, {"Date": "yesterday"}])
async def test_a_date_that_is_not_there_tells_nothing(headers: dict[str, str]) -> None:
    server = Server(lambda _: httpx.Response(200, json={"operators": 0}, headers=headers))
    async with server.client() as client:
        assert (await client.ready()).skew is None


def test_a_receipt_for_the_request_is_accepted() -> None:
    verify_receipt(receipt_for(REQUEST), REQUEST, dispatcher=SIGNER.address, domain=DOMAIN)
    verify_receipt(receipt_for(REQUEST), REQUEST, dispatcher=None, domain=DOMAIN)


def test_numbers_keep_their_value_in_any_form() -> None:
    """RFC 8785 writes 1.0 as 1: a dispatcher that stores numbers its own way still binds the same request."""
    request = REQUEST | {"job": REQUEST["job"] | {"params": {"temperature": 1.0}}}
    same = REQUEST | {"job": REQUEST["job"] | {"params": {"temperature": 1}}}
    verify_receipt(receipt_for(same), request, dispatcher=SIGNER.address, domain=DOMAIN)


OTHER = Signer(b"\x08" * 32)
RECEIPT = receipt_for(REQUEST)
BENT = {
    "another dispatcher's": (receipt_for(REQUEST, OTHER), REQUEST, "the receipt is one of dispatcher 0x"),
    "for another request": (RECEIPT, REQUEST | {"user": "v"}, "is for another request than the one sent"),
    "with another number": (
        RECEIPT.model_copy(update={"sequence": 5}),
        REQUEST,
        "the job id is not the digest",
    ),
    "with another id": (RECEIPT.model_copy(update={"job_id": JOB}), REQUEST, "the job id is not the digest"),
    "signed by another": (
        RECEIPT.model_copy(update={"signature": receipt_for(REQUEST, OTHER).signature}),
        REQUEST,
        "the receipt is signed by 0x",
    ),
    "not signed": (RECEIPT.model_copy(update={"signature": "0" * 130}), REQUEST, "the receipt does not hold"),
}


@pytest.mark.parametrize("name", BENT)
def test_a_bent_receipt_is_refused(name: str) -> None:
    receipt, request, said = BENT[name]
    with pytest.raises(ReceiptRefused, match=f"{said}.*do not rely on this job"):
        verify_receipt(receipt, request, dispatcher=SIGNER.address, domain=DOMAIN)


def test_a_receipt_of_another_domain_is_refused() -> None:
    with pytest.raises(ReceiptRefused, match=r"do not rely on this job"):
        verify_receipt(RECEIPT, REQUEST, dispatcher=SIGNER.address, domain=Domain(1, DOMAIN.registry))


def test_a_request_without_a_canonical_form_is_refused() -> None:
    with pytest.raises(ReceiptRefused, match=r"does not hold"):
        verify_receipt(RECEIPT, REQUEST | {"n": 2**60}, dispatcher=None, domain=DOMAIN)


async def test_attestations_are_asked_for_by_model_and_nonce_without_a_token() -> None:
    rows = [{"operator": SIGNER.address, "attestation": {}}, {"operator": SIGNER.address, "reason": "busy"}]
    server = answering({"code": 200, "result": rows})
    async with server.client("aos_secret") as client:
        assert await client.attestations("a&b c.gguf", "5" * 64) == rows
    url = server.requests[0].url
    assert (url.path, dict(url.params)) == ("/api/attestation", {"model": "a&b c.gguf", "nonce": "5" * 64})
    assert "Authorization" not in server.requests[0].headers


@pytest.mark.parametrize("result", [None, {}, [1], [{}], [{"operator": 1}], "rows"])
async def test_what_is_no_list_of_attestations(result: Any) -> None:
    async with answering({"code": 200, "result": result}).client() as client:
        with pytest.raises(BadAnswer, match=r"gave no list of attestations"):
            await client.attestations("m", "5" * 64)


HEAD = {"size": 3, "root": "ab" * 32, "timestamp": 1_790_000_000, "signature": "cd" * 65}


async def test_the_log_s_head_is_asked_for_without_a_token() -> None:
    server = answering({"code": 200, "result": HEAD | {"dispatcher": SIGNER.address}})
    async with server.client("aos_token") as client:
        head = await client.log_head()
    assert head.model_dump() == HEAD
    assert server.requests[-1].url.path == "/api/log/head"
    assert "Authorization" not in server.requests[-1].headers


async def test_the_proof_that_the_log_grew_is_asked_for() -> None:
    server = answering({"code": 200, "result": {"first": 2, "second": 3, "proof": ["ab" * 32]}})
    async with server.client() as client:
        assert await client.log_growth(2, 3) == ["ab" * 32]
    assert str(server.requests[-1].url).endswith("/api/log/consistency?first=2&second=3")


@pytest.mark.parametrize("result", [None, [], {"size": 3}, HEAD | {"root": "zz"}, HEAD | {"size": -1}])
async def test_a_head_that_is_none(result: Any) -> None:
    async with answering({"code": 200, "result": result}).client() as client:
        with pytest.raises(BadAnswer, match="head of its log"):
            await client.log_head()


@pytest.mark.parametrize("result", [None, {}, {"proof": "ab"}, {"proof": [1]}, {"proof": ["ab"]}])
async def test_a_proof_that_is_none(result: Any) -> None:
    async with answering({"code": 200, "result": result}).client() as client:
        with pytest.raises(BadAnswer, match="gave no proof"):
            await client.log_growth(1, 2)
