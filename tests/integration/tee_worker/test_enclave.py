"""What a whole enclave answers, checked with the protocol's own means, as a project or an auditor would."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.integration.tee_worker.conftest import RunningEnclave, StartEnclave

from aos_protocol.attestation.appraisal import appraise
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.attestation.statement import Attestation, EnclaveStatement
from aos_protocol.errors import InvalidAttestation
from aos_protocol.fields import parse_message
from aos_protocol.identity import checksum_address
from aos_protocol.job import JobSpec, Params, Sealed
from aos_protocol.messages import NO_DIGEST
from aos_protocol.sealing import SealingKey, open_answer, seal_prompt
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain, ExecutionClaim, recover_typed
from aos_tee_worker import simulator

SEED = "0f" * 32
PROVER = checksum_address("0x" + "ab" * 20)
REGISTRY = checksum_address("0x" + "1e" * 20)
EXECUTION = {"job_id": "e1" * 32, "chain_id": 31337, "registry": REGISTRY}
PARAMS = {"temperature": 1.0, "top_p": 0.5, "max_tokens": 16}
SECRET = "The password of the moon is Xyzzy-4711"


@pytest.fixture(scope="session")
def policy(simulator_folder: Path) -> AttestationPolicy:
    """A policy that trusts this code's simulated enclaves with the demo model."""
    build = {"name": "ours", "measurements": simulator.measurements()}
    trusted = {"builds": [build], "roots": [simulator.ensure_root(simulator_folder)]}
    return AttestationPolicy.model_validate(
        {
            "version": "aos-attestation-policy/1",
            "allow_simulated": True,
            "models": {"demo": {"simulated": trusted}},
        }
    )


def body(**changes: Any) -> dict[str, Any]:
    base = {"model": "demo", "prompt": "What is AI?", "seed": SEED, "prover": PROVER, "params": PARAMS}
    return {
        key: value for key, value in (base | {"execution": EXECUTION} | changes).items() if value is not None
    }


def check(
    enclave: dict[str, Any], job: JobSpec, answer: str, commitment: str, policy: AttestationPolicy
) -> None:
    """The signature by hand, and the attestation on the job's seed."""
    statement = parse_message(EnclaveStatement, enclave)
    keyset = statement.attestation.keyset
    claim = ExecutionClaim(
        job_id=EXECUTION["job_id"],
        operator=PROVER,
        prompt=hashlib.sha256(job.prompt_bytes()).hexdigest(),
        seed=SEED,
        answer=hashlib.sha256(answer.encode()).hexdigest(),
        transcript=commitment,
        model=keyset.model.sha256,
        params=job.params.digest(),
    )
    assert recover_typed(Domain(31337, REGISTRY), claim, statement.signature) == keyset.address
    good = appraise(statement.attestation, policy, model="demo", nonce=SEED)
    assert (good.kind, good.build, good.keyset) == ("simulated", "ours", keyset.digest())
    with pytest.raises(InvalidAttestation, match="nonce"):
        appraise(statement.attestation, policy, model="demo", nonce="ff" * 32)


def sealed_prompt(enclave: RunningEnclave, client: httpx.Client, reply: SealingKey) -> tuple[Sealed, str]:
    attestation = parse_message(Attestation, enclave.attestation(client, "77" * 32))
    prompt = {"prompt": SECRET}
    keyset = attestation.keyset
    return seal_prompt(prompt, ("demo", Params(**PARAMS)), reply.public, [(PROVER, keyset)]), keyset.digest()


def test_a_plain_job(client: httpx.Client, policy: AttestationPolicy, demo_model: Path) -> None:
    answer = client.post("/v1/generate", json=body()).json()
    assert Transcript.from_json(answer["transcript"]).commitment() == answer["commitment"]
    assert answer["transcript"]["model"] == hashlib.sha256(demo_model.read_bytes()).hexdigest()
    job = JobSpec(tag="tee", prompt="What is AI?", model="demo", params=Params(**PARAMS))
    check(answer["enclave"], job, answer["text"], answer["commitment"], policy)
    assert answer["enclave"]["attestation"]["keyset"]["model"]["sha256"] == answer["transcript"]["model"]


def test_a_stream(client: httpx.Client, policy: AttestationPolicy) -> None:
    with client.stream("POST", "/v1/generate", json=body(stream=True)) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    assert "".join(event["text"] for event in events[:-1]) == events[-1]["text"]
    job = JobSpec(tag="tee", prompt="What is AI?", model="demo", params=Params(**PARAMS))
    check(events[-1]["enclave"], job, events[-1]["text"], events[-1]["commitment"], policy)


def test_a_sealed_job(enclave: RunningEnclave, client: httpx.Client, policy: AttestationPolicy) -> None:
    reply = SealingKey()
    sealed, keyset = sealed_prompt(enclave, client, reply)
    response = client.post("/v1/generate", json=body(prompt=None, sealed=sealed.to_json()))
    assert response.status_code == 200
    answer = response.json()
    assert answer.keys() == {"sealed", "enclave"}
    job = JobSpec(tag="tee", sealed=sealed, model="demo", params=Params(**PARAMS))
    check(answer["enclave"], job, answer["sealed"], NO_DIGEST, policy)
    opened = open_answer(reply, answer["sealed"], sealed, seed=SEED, prover=PROVER, keyset=keyset)
    plain = client.post("/v1/generate", json=body(prompt=SECRET)).json()
    assert opened["text"] == plain["text"]
    assert opened.keys() == {"text", "finish_reason", "transcript", "commitment", "usage"}
    logged = "".join(enclave.lines)
    assert "Xyzzy" not in logged
    assert str(opened["text"])[:20] not in logged


def test_a_sealed_job_does_not_stream(enclave: RunningEnclave, client: httpx.Client) -> None:
    sealed, _ = sealed_prompt(enclave, client, SealingKey())
    response = client.post("/v1/generate", json=body(prompt=None, sealed=sealed.to_json(), stream=True))
    assert (response.status_code, "does not stream" in response.json()["message"]) == (422, True)


def test_attestations_are_fresh(
    enclave: RunningEnclave, client: httpx.Client, policy: AttestationPolicy
) -> None:
    for nonce in ("01" * 32, "02" * 32):
        made = parse_message(Attestation, enclave.attestation(client, nonce))
        assert appraise(made, policy, model="demo", nonce=nonce, now=made.issued_at + 1).keyset


@pytest.mark.parametrize("nonce", ["", "00", "x" * 64, "0" * 65])
def test_bad_nonces(client: httpx.Client, nonce: str) -> None:
    response = client.get("/attestation", params={"nonce": nonce})
    assert (response.status_code, response.json()["code"]) == (422, 422)
    assert "64 hex digits" in response.json()["message"]


def test_what_it_says_when_it_starts(enclave: RunningEnclave, client: httpx.Client) -> None:
    attested = enclave.attestation(client, "03" * 32)
    enclave.wait_for("listening")
    started = [json.loads(line) for line in enclave.lines if '"generated"' not in line]
    assert all(line["enclave"] == "simulated" for line in started)
    (isolated,), (said,) = enclave.events("isolated"), enclave.events("enclave")
    assert any(each.startswith("no_new_privs") for each in isolated["in_force"])
    keyset = parse_message(Attestation, attested).keyset
    assert (said["keyset"], said["sha256"]) == (keyset.digest(), keyset.model.sha256)
    (warning,) = (line for line in started if line["level"] == "warning")
    assert "SIMULATED" in warning["event"]


def test_the_models_digest_is_measured_and_not_remembered(
    start_enclave: StartEnclave, enclave_environment: dict[str, str], demo_model: Path
) -> None:
    """A digest that lies in a cache is its host's word."""
    folder = Path(enclave_environment["XDG_CACHE_HOME"]) / "aos" / "digests"
    folder.mkdir(parents=True, exist_ok=True)
    entry = folder / f"{hashlib.sha256(os.fsencode(demo_model.resolve())).hexdigest()}.json"
    status = demo_model.stat()
    identity = [status.st_size, status.st_mtime_ns, status.st_ino]
    entry.write_text(json.dumps({"identity": identity, "sha256": "66" * 32}))
    enclave = start_enclave("--port", "0")
    enclave.pid()
    assert enclave.events("enclave")[0]["sha256"] == hashlib.sha256(demo_model.read_bytes()).hexdigest()
