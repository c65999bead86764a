"""`aos attest`: exit status 0 only when there is an enclave, and every one is good."""

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from aos_cli import attest, workers
from aos_cli.data import DataFolder, Running
from aos_cli.failures import ApiError, BadAnswer, Unreachable
from aos_cli.main import app
from aos_cli.workers import fetch_attestation
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.attestation.statement import Attestation
from aos_protocol.fields import parse_message
from aos_service.errors import WorkerUrlError
from support.evidence import DISPATCHER, MODEL
from unit.cli.sealing import NONCE, OPERATOR, Enclave, PrivateDispatcher, enclave

runner = CliRunner()
URL = "http://127.0.0.1:8000"


class Asked:
    """What the command met: a dispatcher, a worker, and the policy's file."""

    def __init__(self, own: Enclave, policy: Path) -> None:
        self.own = own
        self.policy = policy
        self.dispatcher = PrivateDispatcher(own)
        self.workers: list[str] = []

    async def fetch(self, url: str, nonce: str) -> Attestation:
        self.workers.append(url)
        return self.own.keyring.attestation(nonce)

    def run(self, *arguments: str) -> Any:
        return runner.invoke(app, ["attest", *arguments])

    def with_policy(self, *arguments: str) -> Any:
        return self.run(*arguments, "--policy", str(self.policy))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    own, file = enclave(tmp_path / "simulator"), tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(own.policy.to_json()))
    found = Asked(own, file)
    monkeypatch.setenv("AOS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(attest, "DispatcherClient", lambda url: found.dispatcher.client(url, token=None))
    monkeypatch.setattr(attest, "fetch_attestation", found.fetch)
    return found


def test_every_enclave_behind_a_dispatcher_is_asked_on_a_fresh_nonce(asked: Asked) -> None:
    for _ in range(2):
        said = asked.with_policy(URL, "--model", MODEL.name)
        assert said.exit_code == 0, said.output
        assert f"PASS  {OPERATOR}  SIMULATED  simulated" in said.stdout
    calls = [call for call in asked.dispatcher.asked if isinstance(call, tuple)]
    assert [model for model, _ in calls] == [MODEL.name] * 2
    assert len({nonce for _, nonce in calls}) == 2
    assert asked.workers == []


def test_json_has_all_of_it(asked: Asked) -> None:
    asked.dispatcher.others = [{"operator": DISPATCHER.address, "reason": "the device failed"}]
    said = asked.with_policy(URL, "--model", MODEL.name, "--nonce", NONCE, "--json")
    assert said.exit_code == 1
    table = json.loads(said.stdout[said.stdout.index("{") :])
    assert (table["nonce"], table["policy"], table["passed"]) == (NONCE, asked.own.policy.digest(), False)
    assert [(row["operator"], row["passed"], row["reason"]) for row in table["enclaves"]] == [
        (DISPATCHER.address, False, "the device failed"),
        (OPERATOR, True, ""),
    ]


def test_one_bad_one_among_good_ones_fails(asked: Asked) -> None:
    asked.dispatcher.others = [{"operator": DISPATCHER.address, "reason": "the device failed"}]
    said = asked.with_policy(URL, "--model", MODEL.name)
    assert said.exit_code == 1
    assert "PASS  " in said.stdout
    assert "FAIL  " in said.stdout
    assert said.stderr == "error: of 2 asked, not good by the policy: 1\n"


def test_an_old_attestation_passed_on_as_a_new_one_fails(asked: Asked) -> None:
    class Replays(PrivateDispatcher):
        async def attestations(self, model: str, nonce: str) -> list[dict[str, Any]]:
            return [self.own.attested(NONCE)]

    asked.dispatcher = Replays(asked.own)
    assert asked.with_policy(URL, "--model", MODEL.name).exit_code == 1


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_nobody_there_proves_nothing(asked: Asked, more: list[str]) -> None:
    class Nobody(PrivateDispatcher):
        async def attestations(self, model: str, nonce: str) -> list[dict[str, Any]]:
            return []

    asked.dispatcher = Nobody(asked.own)
    said = asked.with_policy(URL, "--model", MODEL.name, *more)
    assert said.exit_code == 1
    assert "PASS" not in said.stdout
    assert said.stderr == "error: no enclave that serves this model is connected: nothing is proven\n"


@pytest.mark.parametrize("url", ["unix:///run/worker.sock", "vsock://15:5005"])
def test_a_worker_is_asked_itself_for_the_model_that_it_serves(asked: Asked, url: str) -> None:
    said = asked.with_policy(url)
    assert said.exit_code == 0, said.output
    assert f"PASS  {url}  SIMULATED" in said.stdout
    assert asked.workers == [url]
    assert asked.dispatcher.asked == []


def test_a_worker_over_http_is_no_dispatcher(asked: Asked) -> None:
    class NoSuchPath(PrivateDispatcher):
        async def attestations(self, model: str, nonce: str) -> list[dict[str, Any]]:
            raise ApiError(self.code, "HTTP error")

        code = 404

    asked.dispatcher = NoSuchPath(asked.own)
    said = asked.with_policy(URL, "--model", MODEL.name)
    assert said.exit_code == 0
    assert f"PASS  {URL}" in said.stdout
    NoSuchPath.code = 503
    said = asked.with_policy(URL, "--model", MODEL.name)
    assert (said.exit_code, said.stderr) == (1, "error: HTTP error\n")
    assert asked.workers == [URL]


def test_another_model_s_policy_is_none(asked: Asked) -> None:
    said = asked.with_policy("unix:///run/worker.sock", "--model", "other.gguf")
    assert said.exit_code == 1
    assert "the policy has no entry for model other.gguf" in said.stdout


def test_what_only_a_local_stack_tells_must_be_given(asked: Asked) -> None:
    said = asked.run(URL, "--model", MODEL.name)
    assert said.exit_code == 1
    assert said.stderr.startswith("error: --policy FILE is needed: which enclaves to trust is for you to say")
    assert asked.with_policy(URL).stderr.startswith("error: --model NAME is needed")
    assert asked.with_policy().stderr.startswith("error: no dispatcher is named")
    assert asked.dispatcher.asked[1:] == []


@pytest.mark.parametrize("nonce", ["", "12", "AB" * 32, "0x" + "ab" * 31])
def test_what_is_no_nonce_is_a_usage_error(asked: Asked, nonce: str) -> None:
    said = asked.with_policy(URL, "--model", MODEL.name, "--nonce", nonce)
    assert said.exit_code == 2
    assert asked.dispatcher.asked == []


def test_a_policy_that_is_none_is_said_with_its_line(asked: Asked) -> None:
    asked.policy.write_text("version: aos-attestation-policy/1\nmodels: {}\nallow_simulatd: true\n")
    said = asked.with_policy(URL, "--model", MODEL.name)
    assert said.exit_code == 1
    assert f"{asked.policy}:3: " in said.stderr


def test_the_running_stack_has_a_policy_of_its_own(asked: Asked, tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.make()
    folder.keystore("dispatcher").write_text(json.dumps({"address": DISPATCHER.address}))
    folder.policy.write_text(asked.policy.read_text())
    running = Running(pid=os.getpid(), url="http://127.0.0.1:8123", project="shop", model=MODEL.name)
    with folder.announced(running):
        assert asked.run().exit_code == 0
        assert asked.run("unix:///run/worker.sock").exit_code == 0
        another = asked.run(URL, "--model", MODEL.name)
        folder.policy.unlink()
        without = asked.run()
    assert asked.dispatcher.asked[0] == "http://127.0.0.1:8123"
    assert "--policy FILE is needed" in another.stderr
    assert "--policy FILE is needed" in without.stderr


def answering(monkeypatch: pytest.MonkeyPatch, response: httpx.Response | Exception) -> list[httpx.Request]:
    """Let a worker answer so; what it was asked."""
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if isinstance(response, Exception):
            raise response
        return response

    class Transport(httpx.MockTransport):
        base_url = "http://worker"

        def __init__(self, url: str) -> None:
            super().__init__(handle)

    monkeypatch.setattr(workers, "WorkerTransport", Transport)
    return asked


async def test_a_worker_s_attestation_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = enclave(tmp_path).keyring.attestation(NONCE)
    asked = answering(monkeypatch, httpx.Response(200, json=made.to_json()))
    assert await fetch_attestation("unix:///w.sock", NONCE) == made
    assert str(asked[0].url) == f"http://worker/attestation?nonce={NONCE}"


@pytest.mark.parametrize(
    ("response", "kind", "said"),
    [
        (httpx.ConnectError("refused"), Unreachable, r"no worker answers at unix:///w.sock .refused."),
        (httpx.ReadTimeout(""), Unreachable, r"did not answer in time"),
        (httpx.Response(200, text="hello"), BadAnswer, r"its answer to /attestation is not JSON"),
        (httpx.Response(200, json={}), BadAnswer, r"is no attestation: Attestation: kind: Field required"),
        (httpx.Response(200, json=[]), BadAnswer, r"is no attestation"),
        (
            httpx.Response(503, json={"code": 503, "message": "no device"}),
            BadAnswer,
            r"no device .HTTP 503.",
        ),
        (httpx.Response(404, json={"detail": "Not Found"}), BadAnswer, r"is it a tee-worker. .HTTP 404."),
        (httpx.Response(404, json=[]), BadAnswer, r"is it a tee-worker"),
        (httpx.Response(404, json={"message": "Not Found"}), BadAnswer, r"is it a tee-worker. .HTTP 404."),
    ],
)
async def test_what_is_no_enclave_s_worker_is_said_to_be_none(
    monkeypatch: pytest.MonkeyPatch, response: Any, kind: type[Exception], said: str
) -> None:
    answering(monkeypatch, response)
    with pytest.raises(kind, match=said):
        await fetch_attestation("unix:///w.sock", NONCE)


async def test_what_is_no_worker_s_url() -> None:
    with pytest.raises(WorkerUrlError, match=r"must be vsock://CID:PORT"):
        await fetch_attestation("vsock://here", NONCE)


def test_the_policy_of_the_tests_reads_back(asked: Asked) -> None:
    assert parse_message(AttestationPolicy, yaml.safe_load(asked.policy.read_text())) == asked.own.policy
