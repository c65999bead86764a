"""The enclave's HTTP API around a stand-in model and hardware that writes down what it is asked to sign."""

import base64
import hashlib
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import structlog

from aos_inference.app import create_app
from aos_inference.chat import ChatFormat
from aos_inference.engine import Engine
from aos_inference.filling import Gap, choose
from aos_inference.loading import Loaded
from aos_inference.scheduler import Limits
from aos_inference.schemas import Answer, ModelCard
from aos_inference.testing import ByteModel
from aos_inference.worker import Worker
from aos_protocol.attestation.statement import EnclaveStatement, Keyset
from aos_protocol.fields import parse_message
from aos_protocol.identity import checksum_address
from aos_protocol.job import JobSpec, Params, Sealed
from aos_protocol.messages import NO_DIGEST, ModelOffer
from aos_protocol.sealing import SealingKey, open_answer, seal_prompt
from aos_protocol.typed_data import Domain, ExecutionClaim, recover_typed
from aos_service.logs import configure_logs
from aos_tee_worker.app import router
from aos_tee_worker.enclave import hide_values
from aos_tee_worker.errors import DeviceFailed
from aos_tee_worker.keyring import Keyring, Keys
from aos_tee_worker.metrics import Metrics
from aos_tee_worker.supervisor import Restarts
from aos_tee_worker.worker import TeeWorker
from support.devices import COLLATERAL, MADE_AT, FakeDevice

CARD = ModelCard(name="m.gguf", sha256="ab" * 32, size=5, context=300, vocabulary=260, engine="stand-in 1")
SEED = "0f" * 32
PROVER = checksum_address("0x" + "ab" * 20)
OTHER = checksum_address("0x" + "cd" * 20)
REGISTRY = checksum_address("0x" + "1e" * 20)
EXECUTION = {"job_id": "e1" * 32, "chain_id": 31337, "registry": REGISTRY}
PARAMS = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 9}
TEMPLATE = (
    "{% for m in messages %}{% if 'forbidden' in m.content %}{{ raise_exception('no: ' ~ m.content) }}{% endif %}"
    "<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
)
SECRET = "my secret is Xyzzy"


@pytest.fixture
def model() -> ByteModel:
    return ByteModel()


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def keyring(device: FakeDevice) -> Keyring:
    return Keyring(device, ModelOffer(name=CARD.name, sha256=CARD.sha256), "a build")


@pytest.fixture
async def worker(model: ByteModel, keyring: Keyring) -> AsyncIterator[TeeWorker]:
    engine = Engine(model, model, context=300, limits=Limits(1, requests=4, tokens=1000))
    engine.start()
    model.gap = Gap(258, 259, 257)
    loaded = Loaded(CARD, engine, model, ChatFormat(TEMPLATE, model), choose(model, None))
    yield TeeWorker(loaded, keyring, Metrics("tdx", 1_900_000_000.25, Restarts(crashed=2, hung=1)))
    model.open.set()
    engine.stop()
    await engine.wait()


@pytest.fixture
async def client(worker: TeeWorker) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(worker, router), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://enclave") as client:
        yield client


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Logging as the enclave has it, at its most talkative, and what it writes."""
    root, written = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    configure_logs("tee-worker", level="debug", json=True)
    hide_values()
    (ours,) = root.handlers
    assert isinstance(ours, logging.StreamHandler)
    ours.setStream(written)
    yield written
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def body(**changes: Any) -> dict[str, Any]:
    base = {
        "model": "m.gguf",
        "prompt": "Hi",
        "seed": SEED,
        "prover": PROVER,
        "params": PARAMS,
        "execution": EXECUTION,
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def seal(keys: Keys, prompt: dict[str, Any], reply: SealingKey | None = None, **changes: Any) -> Sealed:
    terms = {"model": "m.gguf", "params": Params(**PARAMS), "operator": PROVER} | changes
    key = (reply or SealingKey()).public
    enclaves = [(terms["operator"], keys.keyset)]
    return seal_prompt(prompt, (terms["model"], terms["params"]), key, enclaves)


def sealed_body(sealed: Sealed, **changes: Any) -> dict[str, Any]:
    return body(prompt=None, sealed=sealed.to_json(), **changes)


async def generate(client: httpx.AsyncClient, asked: dict[str, Any]) -> httpx.Response:
    return await client.post("/v1/generate", json=asked)


def check_signature(enclave: dict[str, Any], job: JobSpec, answer: str, commitment: str) -> Keyset:
    """What anybody checks of a statement by hand; gives its keyset."""
    statement = parse_message(EnclaveStatement, enclave)
    claim = ExecutionClaim(
        job_id=EXECUTION["job_id"],
        operator=PROVER,
        prompt=hashlib.sha256(job.prompt_bytes()).hexdigest(),
        seed=SEED,
        answer=hashlib.sha256(answer.encode()).hexdigest(),
        transcript=commitment,
        model=CARD.sha256,
        params=job.params.digest(),
    )
    keyset = statement.attestation.keyset
    assert recover_typed(Domain(31337, REGISTRY), claim, statement.signature) == keyset.address
    return keyset


async def test_a_plain_answer_is_the_inference_workers_and_signed(
    client: httpx.AsyncClient, device: FakeDevice, worker: TeeWorker
) -> None:
    response = await generate(client, body())
    assert response.status_code == 200
    answer = response.json()
    enclave = answer.pop("enclave")
    plain = create_app(Worker(worker.card, worker.engine, worker._vocabulary, worker._chat))
    transport = httpx.ASGITransport(plain)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as other:
        assert answer == (await generate(other, body(execution=None))).json()
    job = JobSpec(tag="tee", prompt="Hi", model="m.gguf", params=Params(**PARAMS))
    keyset = check_signature(enclave, job, answer["text"], answer["commitment"])
    assert device.asked == [
        {
            "keyset": bytes.fromhex(keyset.digest()),
            "nonce": bytes.fromhex(SEED),
            "result_key": bytes.fromhex(keyset.result_key),
        }
    ]


async def test_messages_are_signed_as_the_network_hashes_them(client: httpx.AsyncClient) -> None:
    turns = [{"role": "user", "content": "Hé\n"}]
    answer = (await generate(client, body(prompt=None, messages=turns))).json()
    job = JobSpec.model_validate({"tag": "tee", "messages": turns, "model": "m.gguf", "params": PARAMS})
    check_signature(answer["enclave"], job, answer["text"], answer["commitment"])


async def test_defaults_are_signed_as_the_jobs(client: httpx.AsyncClient, model: ByteModel) -> None:
    answer = (await generate(client, body(params={"stop": ["e", "a", "i", "\n"]}))).json()
    job = JobSpec(tag="tee", prompt="Hi", model="m.gguf", params=Params(stop=["e", "a", "i", "\n"]))
    check_signature(answer["enclave"], job, answer["text"], answer["commitment"])


async def test_what_is_filled_in_is_signed_with_its_suffix_and_comes_with_logprobs(
    client: httpx.AsyncClient,
) -> None:
    answer = (await generate(client, body(suffix=" there", logprobs=1))).json()
    assert answer["transcript"]["prompt_tokens"] == [256, 258, *b"Hi", 259, *b" there", 257]
    assert len(answer["logprobs"]) >= len(answer["transcript"]["output_tokens"]) - 1
    job = JobSpec(tag="tee", prompt="Hi", suffix=" there", model="m.gguf", params=Params(**PARAMS))
    check_signature(answer["enclave"], job, answer["text"], answer["commitment"])


@pytest.mark.parametrize("wish", [{"suffix": "x"}, {"logprobs": 1}])
async def test_a_sealed_prompt_goes_with_neither(
    client: httpx.AsyncClient, keyring: Keyring, wish: dict[str, Any]
) -> None:
    """Logprobs would be in the clear, and a suffix is part of a prompt that others must not know."""
    sealed = seal(keyring.current(), {"prompt": SECRET})
    response = await generate(client, sealed_body(sealed, **wish))
    assert response.status_code == 422
    assert "Xyzzy" not in response.text


async def test_a_stream_ends_with_the_signed_answer(client: httpx.AsyncClient) -> None:
    whole = (await generate(client, body())).json()
    response = await generate(client, body(stream=True))
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    assert "".join(event["text"] for event in events[:-1]) == whole["text"]
    assert events[-1]["enclave"]["signature"] == whole["enclave"]["signature"]


@pytest.mark.parametrize(
    "prompt",
    [{"prompt": SECRET}, {"messages": [{"role": "user", "content": SECRET}]}],
    ids=["prompt", "messages"],
)
async def test_a_sealed_prompt_has_a_sealed_answer(
    client: httpx.AsyncClient, keyring: Keyring, prompt: dict[str, Any], log: io.StringIO
) -> None:
    reply, keys = SealingKey(), keyring.current()
    sealed = seal(keys, prompt, reply)
    response = await generate(client, sealed_body(sealed))
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"sealed", "enclave"}
    opened = open_answer(reply, answer["sealed"], sealed, seed=SEED, prover=PROVER, keyset=keys.digest)
    plain = (await generate(client, body(**{"prompt": None} | prompt))).json()
    del plain["enclave"]
    assert opened == plain
    assert Answer.model_validate(opened).transcript.commitment() == opened["commitment"]
    job = JobSpec(tag="tee", sealed=sealed, model="m.gguf", params=Params(**PARAMS))
    assert check_signature(answer["enclave"], job, answer["sealed"], NO_DIGEST) == keys.keyset
    logged = log.getvalue()
    assert '"generated"' in logged
    for secret in ("Xyzzy", opened["text"], opened["transcript"]["fingerprints"], reply.secret.hex()):
        assert secret not in logged
        assert secret not in response.text


async def test_a_sealed_prompt_leaves_no_trace_in_the_time_of_others(
    client: httpx.AsyncClient, keyring: Keyring, model: ByteModel
) -> None:
    """A slot that remembers lets the operator guess: a right beginning of somebody's prompt would be read faster."""
    guess, secret = {"prompt": SECRET}, seal(keyring.current(), {"prompt": SECRET})
    read = []
    for asked in (body(**guess), sealed_body(secret), body(**guess), body(**guess)):
        before = model.fed
        answer = await generate(client, asked | {"params": {**PARAMS, "max_tokens": 9}})
        assert answer.status_code == 200
        read.append(model.fed - before)
    assert read[0] == read[1] == read[2] > len(SECRET)
    assert read[3] < len(SECRET)  # in the open, slots do remember


async def test_an_old_keyset_answers_what_was_sealed_to_it(
    client: httpx.AsyncClient, keyring: Keyring
) -> None:
    old, reply = keyring.current(), SealingKey()
    sealed = seal(old, {"prompt": SECRET}, reply)
    keyring._rings.append(keyring._make(int(old.keyset.created_at)))  # as if half of its life had passed
    answer = (await generate(client, sealed_body(sealed))).json()
    open_answer(reply, answer["sealed"], sealed, seed=SEED, prover=PROVER, keyset=old.digest)
    assert answer["enclave"]["attestation"]["keyset"] == old.keyset.to_json()
    plain = (await generate(client, body())).json()
    assert plain["enclave"]["attestation"]["keyset"] == keyring.current().keyset.to_json()


async def test_another_keyset_is_refused_with_the_present_one(
    client: httpx.AsyncClient, keyring: Keyring
) -> None:
    stranger = Keyring(FakeDevice(), ModelOffer(name="m.gguf", sha256=CARD.sha256), "b").current()
    for sealed in (
        seal(stranger, {"prompt": SECRET}),
        seal(keyring.current(), {"prompt": "x"}, operator=OTHER),
    ):
        response = await generate(client, sealed_body(sealed))
        assert response.status_code == 422
        assert "No box of the sealed prompt is for this enclave" in response.json()["message"]
        assert keyring.current().digest in response.json()["message"]


@pytest.mark.parametrize(
    ("prompt", "changes", "said"),
    [
        ({"prompt": SECRET}, {"params": Params(max_tokens=10)}, "does not open"),
        ({"prompt": SECRET}, {"model": "n.gguf"}, "does not open"),
        ({"prompt": ""}, {}, "cannot be given to this model"),
        ({"prompt": 5}, {}, "cannot be given to this model"),
        ({"messages": [{"role": "user", "content": "x", SECRET: 1}]}, {}, "cannot be given to this model"),
        (
            {"messages": [{"role": "user", "content": f"forbidden: {SECRET}"}]},
            {},
            "cannot be given to this model",
        ),
        ({"prompt": "a" * 400}, {}, "The prompt has 401 tokens"),
    ],
)
async def test_what_is_wrong_with_a_sealed_prompt_stays_inside(
    client: httpx.AsyncClient,
    keyring: Keyring,
    log: io.StringIO,
    prompt: dict[str, Any],
    changes: dict[str, Any],
    said: str,
) -> None:
    response = await generate(client, sealed_body(seal(keyring.current(), prompt, **changes)))
    assert response.status_code == 422
    assert said in response.json()["message"]
    assert "secret" not in response.text
    assert "secret" not in log.getvalue()


@pytest.mark.parametrize(
    "text", [b'{"my secret": 1, "my secret": 2}', b"my secret", b'"my secret"', b'{"seed": "my secret"}']
)
async def test_what_is_no_prompt_at_all_is_not_quoted(
    client: httpx.AsyncClient, keyring: Keyring, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr("aos_protocol.sealing._checked_prompt", lambda value: value)
    monkeypatch.setattr(
        "aos_protocol.sealing.canonical",
        lambda value: text if value == {"prompt": "x"} else _canonical(value),
    )
    sealed = seal(keyring.current(), {"prompt": "x"})
    monkeypatch.undo()
    response = await generate(client, sealed_body(sealed))
    assert response.status_code == 422
    assert "does not open" in response.json()["message"]
    assert "secret" not in response.text


def _canonical(value: Any) -> bytes:
    from aos_protocol.canonical import canonical

    return canonical(value)


async def test_in_the_open_the_template_may_say_what_it_refuses(client: httpx.AsyncClient) -> None:
    turns = [{"role": "user", "content": "forbidden fruit"}]
    response = await generate(client, body(prompt=None, messages=turns))
    assert (response.status_code, "no: forbidden fruit" in response.json()["message"]) == (422, True)


async def test_a_crash_says_where_and_not_what(
    client: httpx.AsyncClient,
    keyring: Keyring,
    model: ByteModel,
    monkeypatch: pytest.MonkeyPatch,
    log: io.StringIO,
) -> None:
    def broken(text: str) -> list[int]:
        raise KeyError(f"no token for {text}")

    monkeypatch.setattr(model, "tokenize", broken)
    response = await generate(client, sealed_body(seal(keyring.current(), {"prompt": SECRET})))
    assert response.status_code == 500
    assert "secret" not in response.text
    try:
        broken(SECRET)
    except KeyError as error:
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
    logged = log.getvalue()
    assert "KeyError at test_app.py:" in logged
    assert "secret" not in logged


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"execution": None}, "execution: Field required"),
        ({"execution": {**EXECUTION, "registry": REGISTRY.lower()}}, "execution.registry"),
        ({"execution": {**EXECUTION, "job_id": "E1" * 32}}, "execution.job_id"),
        ({"execution": {**EXECUTION, "chain_id": 2**256}}, "execution.chain_id"),
        ({"prover": PROVER.lower()}, "prover: Value error, is not in EIP-55 form"),
        ({"prompt": "a\0b"}, "no job of the network: prompt: must not contain U+0000"),
        ({"params": {"max_tokens": 65_537}}, "no job of the network"),
        ({"sealed": {"suite": "none"}}, "sealed.suite"),
        ({"prompt": None}, "give exactly one of prompt, messages and sealed"),
        ({"model": "other"}, "Unknown model 'other'"),
    ],
)
async def test_malformed_requests(client: httpx.AsyncClient, changes: dict[str, Any], said: str) -> None:
    response = await generate(client, body(**changes))
    assert response.status_code in {404, 422}
    assert said in response.json()["message"]


async def test_sealed_prompts_come_alone_and_do_not_stream(
    client: httpx.AsyncClient, keyring: Keyring
) -> None:
    sealed = seal(keyring.current(), {"prompt": SECRET})
    both = await generate(client, sealed_body(sealed) | {"prompt": "x"})
    assert (both.status_code, "exactly one" in both.json()["message"]) == (422, True)
    stream = await generate(client, sealed_body(sealed, stream=True))
    assert (stream.status_code, "does not stream" in stream.json()["message"]) == (422, True)
    model = await generate(client, sealed_body(sealed, model="other"))
    assert model.status_code == 404


async def test_fresh_attestations(client: httpx.AsyncClient, device: FakeDevice, keyring: Keyring) -> None:
    first, second = "5E" * 32, "5f" * 32
    for nonce in (first, second):
        response = await client.get("/attestation", params={"nonce": nonce})
        assert response.status_code == 200
        said = response.json()
        assert said == {
            "kind": "tdx",
            "document": base64.b64encode(b"quote").decode(),
            "keyset": keyring.current().keyset.to_json(),
            "issued_at": MADE_AT,
            "collateral": COLLATERAL,
        }
    assert [asked["nonce"] for asked in device.asked] == [bytes.fromhex(first), bytes.fromhex(second)]


@pytest.mark.parametrize("query", ["", "?nonce=", "?nonce=12", f"?nonce={'g' * 64}", f"?nonce={'ab' * 33}"])
async def test_bad_nonces(client: httpx.AsyncClient, query: str, device: FakeDevice) -> None:
    response = await client.get(f"/attestation{query}")
    assert response.status_code == 422
    assert response.json() == {
        "code": 422,
        "message": "nonce: give 64 hex digits, 32 bytes that you have just drawn at random.",
    }
    assert device.asked == []


async def test_hardware_that_fails(client: httpx.AsyncClient, device: FakeDevice, log: io.StringIO) -> None:
    device.failure = DeviceFailed("the kernel gave an empty quote")
    unattested = await generate(client, body())
    assert (
        unattested.status_code == 500
    )  # not 503: a client that comes again would have the whole job run again
    assert "no attestation for this answer: the kernel gave an empty quote" in unattested.json()["message"]
    asked = await client.get("/attestation", params={"nonce": SEED})
    assert (asked.status_code, asked.json()["message"]) == (503, "the kernel gave an empty quote")
    stream = await generate(client, body(stream=True))
    assert "event: error" in stream.text
    assert "empty quote" in stream.text
    assert log.getvalue().count('"no attestation"') == 3
    assert "aos_enclave_attestations_total 0\n" in (await client.get("/metrics")).text


async def test_metrics(client: httpx.AsyncClient) -> None:
    await generate(client, body())
    await client.get("/attestation", params={"nonce": SEED})
    response = await client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    from prometheus_client.parser import text_string_to_metric_families

    families = {each.name: each for each in text_string_to_metric_families(response.text)}
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples == {
        ("aos_enclave_restarts_total", "crashed"): 2,
        ("aos_enclave_restarts_total", "hung"): 1,
        ("aos_enclave_started_timestamp_seconds",): 1_900_000_000.25,
        ("aos_enclave_attestations_total",): 2,
        ("aos_enclave_kind", "tdx"): 1,
    }


async def test_the_inference_workers_api_is_there(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json()["models"][0]["sha256"] == CARD.sha256
    assert (await client.get("/healthz")).json()["status"] == "ok"
    item = {"prompt": "x", "text": "y", "subject": "0" * 64}
    assert (await client.post("/v1/score", json={"model": "m.gguf", "items": [item]})).status_code == 200


async def test_openapi_describes_the_enclaves_bodies(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    post = schema["paths"]["/v1/generate"]["post"]
    asked = post["requestBody"]["content"]["application/json"]["schema"]
    assert asked == {"$ref": "#/components/schemas/EnclaveRequest"}
    answered = post["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
    assert answered == [
        {"$ref": f"#/components/schemas/{name}"} for name in ("EnclaveAnswer", "SealedAnswer")
    ]
    components = schema["components"]["schemas"]
    assert "execution" in components["EnclaveRequest"]["required"]
    assert {"Sealed", "Keyset", "Attestation", "Execution"} <= components.keys()
    assert "/attestation" in schema["paths"]
    references = {
        line.split('"')[3] for line in json.dumps(schema, indent=0).splitlines() if '"$ref"' in line
    }
    assert {reference.rsplit("/", 1)[1] for reference in references} <= components.keys()
