"""The HTTP API by its published shapes, and what it says to every kind of bad request."""

import asyncio
import json
from typing import Any

import pytest

from aos_protocol import sortition
from aos_protocol.canonical import digest
from aos_protocol.typed_data import Domain, ReceiptClaim, recover_typed

PUBLISHED = """{
"from": "projectid",
"tag": "",
"user": "b77f1799de0148c07bc6ef630fb75ac267f31d147cd28797ad145afe72302632",
"job": {
"tag": "opml",
"prompt": "What is AI?",
"model": "llama-2-7b-chat.Q4_0.gguf",
"params": {
"temperature": 1.0,
"top_p": 0.5,
"max_tokens": 1024
}
},
"verify": "4cc2e1f9-0ac2-4af6-98f8-b814917b49b0"
}"""
"""The developer guide's request, without its comments."""


@pytest.fixture
async def ready(network: Any) -> Any:
    """A network with one operator, so that its model is known."""
    await network.operator()
    return network


async def test_the_published_request_is_understood_as_it_stands(ready: Any) -> None:
    answer = await ready.client.post("/api/job/submit", content=PUBLISHED)
    assert answer.status_code == 401
    assert answer.json() == {"code": 401, "message": answer.json()["message"]}
    token = await ready.project("projectid")
    await ready.dispatcher.database.close()
    body = json.loads(PUBLISHED) | {"verify": token}
    answer = await ready.post("/api/job/submit", body)
    assert answer.status_code == 422
    assert "llama-2-7b-chat.Q4_0.gguf" in answer.json()["message"]
    assert "tiny.gguf (opml)" in answer.json()["message"]
    body["job"]["model"] = "tiny.gguf"
    accepted = (await ready.post("/api/job/submit", body)).json()
    assert accepted["code"] == 200
    assert len(accepted["result"]) == 64
    for path in ("result", "detail"):
        answer = await ready.post(f"/api/job/{path}", {"job_id": accepted["result"]})
        assert answer.json()["code"] == 200


async def test_the_receipt_binds_request_sequence_and_dispatcher(ready: Any) -> None:
    body = ready.body()
    answer = (await ready.post("/api/job/submit", body)).json()
    receipt = answer["receipt"]
    request = {key: value for key, value in body.items() if key != "verify"}
    assert receipt["request_digest"] == digest(request)
    assert answer["result"] == sortition.job_id(ready.signer.address, receipt["sequence"], request)
    claim = ReceiptClaim(answer["result"], receipt["sequence"], receipt["request_digest"])
    assert recover_typed(Domain(0, "0x" + "0" * 40), claim, receipt["signature"]) == ready.signer.address


async def test_sequences_have_no_gaps_under_concurrency(ready: Any) -> None:
    bodies = [ready.body(user=f"user {n}") for n in range(60)]
    answers = await asyncio.gather(*(ready.post("/api/job/submit", body) for body in bodies))
    assert sorted(a.json()["receipt"]["sequence"] for a in answers) == list(range(1, 61))
    assert len({a.json()["result"] for a in answers}) == 60


async def test_an_idempotency_key_replays_the_first_answer(ready: Any) -> None:
    key = {"Idempotency-Key": "order 17"}
    body = ready.body()
    answers = await asyncio.gather(*(ready.post("/api/job/submit", body, headers=key) for _ in range(8)))
    answers.append(await ready.post("/api/job/submit", body, headers=key))
    assert len({a.text for a in answers}) == 1
    assert answers[0].json()["receipt"]["sequence"] == 1
    other = await ready.post("/api/job/submit", ready.body(user="another"), headers=key)
    assert (other.status_code, other.json()["code"]) == (409, 409)
    fresh = await ready.post("/api/job/submit", body)
    assert fresh.json()["receipt"]["sequence"] == 2


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"verify": None}, 401, "required"),
        ({"verify": 7}, 401, "required"),
        ({"verify": "wrong"}, 401, "not known"),
        ({"from": "another"}, 403, "another"),
        ({"from": 7}, 422, "from"),
        ({"user": ""}, 422, "user"),
        ({"user": "a\0b"}, 422, "U+0000"),
        ({"tag": "nonsense"}, 422, "suspicion"),
        ({"extra": 1}, 422, "extra"),
        ({"job": []}, 422, "job"),
        ({"job": {"tag": "gpu", "prompt": "x", "model": "tiny.gguf"}}, 422, "opml"),
        ({"job": {"tag": "tee", "prompt": "x", "model": "tiny.gguf"}}, 422, "tiny.gguf (opml)"),
        ({"job": {"tag": "opml", "model": "tiny.gguf"}}, 422, "exactly one"),
        ({"job": {"tag": "opml", "prompt": "x", "messages": [], "model": "tiny.gguf"}}, 422, "messages"),
        (
            {"job": {"tag": "opml", "prompt": "x", "model": "tiny.gguf", "params": {"temperature": "1"}}},
            422,
            "temperature",
        ),
        ({"job": {"tag": "opml", "prompt": "x", "model": "tiny.gguf", "params": {"top_p": 0}}}, 422, "top_p"),
        (
            {"job": {"tag": "opml", "prompt": "x", "model": "tiny.gguf", "params": {"max_tokens": 1.5}}},
            422,
            "max_tokens",
        ),
        (
            {"job": {"tag": "opml", "prompt": "x", "model": "tiny.gguf", "params": {"temperature": True}}},
            422,
            "temperature",
        ),
    ],
)
async def test_a_bad_submission_gets_a_precise_error(
    ready: Any, change: dict[str, Any], status: int, said: str
) -> None:
    body = {key: value for key, value in (ready.body() | change).items() if value is not None}
    answer = await ready.post("/api/job/submit", body)
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert said in answer.json()["message"]
    assert ready.token not in answer.text


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b'{"user":"\xff"}', 400),
        (b'{"user":"\\ud800"}', 400),
        (b'{"user":1,"user":2}', 400),
        (b'{"user":NaN}', 400),
        (b"[" * 20_000, 400),
        (b'{"user":"' + b"x" * 40_000 + b'"}', 413),
    ],
)
async def test_a_bad_body_gets_a_precise_error(ready: Any, content: bytes, status: int) -> None:
    for path in ("submit", "result", "detail"):
        answer = await ready.client.post(f"/api/job/{path}", content=content)
        assert (answer.status_code, answer.json()["code"]) == (status, status), answer.text
        assert answer.json()["message"]


async def test_a_number_without_canonical_form_is_refused(ready: Any) -> None:
    text = json.dumps(ready.body()).replace("1024", "1" + "0" * 400)
    answer = await ready.client.post("/api/job/submit", content=text)
    assert answer.status_code in {400, 422}


async def test_an_unknown_job_is_404_everywhere(ready: Any) -> None:
    job_id = "0" * 64
    for path in ("result", "detail", "cancel"):
        answer = await ready.post(f"/api/job/{path}", {"job_id": job_id})
        assert (answer.status_code, answer.json()["code"]) == (404, 404)
    assert (await ready.client.get(f"/api/job/evidence/{job_id}")).status_code == 404
    assert (await ready.client.get("/api/job/evidence/xyz")).status_code == 422
    assert (await ready.post("/api/job/result", {"job_id": "xyz"})).status_code == 422
    nowhere = await ready.client.get("/nowhere")
    assert nowhere.json() == {"code": 404, "message": "Not Found"}
    assert (await ready.client.get("/api/job/submit")).json()["code"] == 405


async def test_a_private_project_shows_its_jobs_to_its_token_only(network: Any) -> None:
    await network.operator()
    other = network.token
    token = await network.project("quiet", private=True)
    job_id = await network.submit(**{"from": "quiet"})
    reads = [("POST", "/api/job/result"), ("POST", "/api/job/detail"), ("GET", f"/api/job/evidence/{job_id}")]
    for method, path in reads:
        body = {"job_id": job_id} if method == "POST" else None
        for header, status in (
            (None, 401), ("Bearer wrong", 401), ("Basic x", 401), ("Bearer", 401), (f"Bearer {other}", 403),
            (f"Bearer {token}", 200),
        ):  # fmt: skip
            headers = {"Authorization": header} if header else {}
            answer = await network.client.request(method, path, json=body, headers=headers)
            assert answer.status_code == status, (path, header, answer.text)


async def test_openapi_shows_bodies_answers_and_errors(network: Any) -> None:
    document = (await network.client.get("/openapi.json")).json()
    submit = document["paths"]["/api/job/submit"]["post"]
    assert submit["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/SubmitBody")
    body = document["components"]["schemas"]["SubmitBody"]["properties"]
    assert {"from", "tag", "user", "job", "verify"} <= set(body)
    assert {"200", "400", "401", "403", "404", "409", "413", "422", "503"} <= set(submit["responses"])
    references = [part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]]
    assert set(references) <= set(document["components"]["schemas"])


async def test_health_readiness_and_metrics(ready: Any) -> None:
    assert (await ready.client.get("/healthz")).json() == {"status": "ok"}
    assert (await ready.client.get("/readyz")).json() == {"status": "ready", "operators": 1}
    await ready.finished(await ready.submit())
    metrics = (await ready.client.get("/metrics")).text
    for name in ("aos_jobs_submitted_total", "aos_results_accepted_total", "aos_operators_connected"):
        assert f"\n{name} " in metrics


async def test_a_database_that_is_away_is_503_and_comes_back(ready: Any, new_database: Any) -> None:
    database = ready.dispatcher.database
    working = database._engine, database._single
    database._engine = database._single = _Away()
    for method, path in (("GET", "/readyz"), ("POST", "/api/job/submit"), ("POST", "/api/job/detail")):
        body = ready.body() if path.endswith("submit") else {"job_id": "0" * 64}
        answer = await ready.client.request(method, path, json=body if method == "POST" else None)
        assert (answer.status_code, answer.json()["code"]) == (503, 503)
        assert int(answer.headers["Retry-After"]) > 0
    database._engine, database._single = working
    assert (await ready.finished(await ready.submit()))["status"] == "completed"


class _Away:
    """An engine whose server refuses every connection."""

    def begin(self) -> Any:
        raise ConnectionRefusedError

    connect = begin

    async def dispose(self) -> None:
        return
