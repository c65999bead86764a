"""The command line: help that teaches, data on stdout, everything else on stderr."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aos_cli import jobs
from aos_cli.client import DispatcherClient
from aos_cli.data import DataFolder, Running
from aos_cli.failures import ApiError
from aos_cli.main import app
from aos_protocol.evidence import answers
from aos_protocol.messages import Receipt
from support.evidence import DISPATCHER, NO_REGISTRY, REQUEST, honest_evidence

runner = CliRunner()
COMMANDS = ["demo", "up", "submit", "result", "detail", "verify", "cancel", "doctor"]
DOCUMENT = honest_evidence()
JOB: str = DOCUMENT["job"]["job_id"]
ROWS = [
    {"operator": said.operator, "tag": said.tag, "result": said.result, "signature": said.signature}
    for said in answers(DOCUMENT)
]
HERE = ["--dispatcher", "http://127.0.0.1:8000", "--dispatcher-address", DISPATCHER.address]


class FakeDispatcher:
    """Answers what a client asks for, without a network; remembers what it was asked."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = DOCUMENT
        self.rows: list[dict[str, Any]] = ROWS
        self.status = "completed"
        self.asked: list[Any] = []
        self.token: str | None = None

    def client(self, url: str, *, token: str | None) -> "FakeDispatcher":
        self.asked.append(url)
        self.token = token
        return self

    async def __aenter__(self) -> "FakeDispatcher":
        return self

    async def __aexit__(self, *_error: object) -> None:
        return None

    async def submit(self, request: dict[str, Any], *, idempotency_key: str | None) -> Receipt:
        self.asked.append((request, idempotency_key))
        job = self.document["job"]
        return Receipt(
            job_id=JOB,
            sequence=1,
            request_digest=job["request_digest"],
            dispatcher=DISPATCHER.address,
            signature=job["receipt"],
        )

    async def evidence(self, _job_id: str) -> dict[str, Any]:
        return self.document

    async def results(self, _job_id: str) -> list[dict[str, Any]]:
        return self.rows

    async def detail(self, job_id: str) -> dict[str, Any]:
        return {"id": job_id, "status": self.status, "job": {"prompt": "naïve"}}

    async def until_ended(self, _job_id: str) -> dict[str, Any]:
        return {"status": self.status, "reason": "no operator for this model"}

    async def cancel(self, _job_id: str) -> str:
        raise ApiError(401, "an API token is required (401)")


@pytest.fixture
def dispatcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDispatcher:
    fake = FakeDispatcher()
    monkeypatch.setattr(jobs, "DispatcherClient", fake.client)
    monkeypatch.setenv("AOS_DATA", str(tmp_path / "data"))
    for name in ("AOS_TOKEN", "AOS_DISPATCHER", "AOS_DISPATCHER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return fake


def submit(*more: str) -> Any:
    """Submit the very request that the evidence is of."""
    params = ["--temperature", "1.0", "--top-p", "0.5", "--max-tokens", "1024"]
    who = ["--project", "shop", "--user", "device 1", "--model", "tiny.gguf"]
    return runner.invoke(app, ["submit", "What is AI?", *params, *who, *HERE, *more])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_teaches_with_an_example(command: str) -> None:
    shown = runner.invoke(app, [command, "--help"], terminal_width=200)
    assert shown.exit_code == 0
    assert f"Example: aos {command}" in shown.stdout


def test_the_commands_are_those_of_the_help() -> None:
    shown = runner.invoke(app, ["--help"], terminal_width=200)
    group = typer.main.get_command(app)
    assert sorted(group.list_commands(None)) == sorted([*COMMANDS, "keys"])  # type: ignore[attr-defined,arg-type]
    assert 'aos submit "What is AI?" --wait' in " ".join(shown.stdout.split())


def test_up_says_why_one_worker_is_shared() -> None:
    shown = " ".join(runner.invoke(app, ["up", "--help"], terminal_width=200).stdout.split())
    assert "The operators share one worker" in shown
    assert "the model is in memory once" in shown


def test_a_submitted_job_s_id_is_all_there_is_on_stdout(dispatcher: FakeDispatcher) -> None:
    said = submit("--idempotency-key", "order 1")
    assert (said.exit_code, said.stdout) == (0, f"{JOB}\n")
    assert said.stderr == f"number 1, receipt signed by {DISPATCHER.address}\n"
    assert dispatcher.asked == ["http://127.0.0.1:8000", (REQUEST, "order 1")]


def test_parameters_that_are_not_given_are_left_to_the_dispatcher(dispatcher: FakeDispatcher) -> None:
    arguments = [
        "--project",
        "p",
        "--model",
        "m",
        "--stop",
        "a",
        "--stop",
        "b",
        "--tag",
        "suspicion",
        "--job-type",
        "tee",
    ]
    runner.invoke(app, ["submit", "?", *HERE, *arguments])
    request, key = dispatcher.asked[1]
    job = {"tag": "tee", "prompt": "?", "model": "m", "params": {"stop": ["a", "b"]}}
    assert request == {"from": "p", "tag": "suspicion", "user": "aos-cli", "job": job}
    assert key is None


def test_a_receipt_for_another_request_is_no_success(dispatcher: FakeDispatcher) -> None:
    said = submit("--tag", "malicious")
    assert (said.exit_code, said.stdout) == (1, "")
    assert said.stderr == (
        f"error: job {JOB}: the receipt is for another request than the one sent: do not rely on this job\n"
    )


def test_a_receipt_of_another_dispatcher_is_no_success(dispatcher: FakeDispatcher) -> None:
    said = submit("--dispatcher-address", NO_REGISTRY)
    assert (said.exit_code, said.stdout) == (1, "")
    assert f"not of {NO_REGISTRY}: do not rely on this job" in said.stderr


def test_evidence_that_cannot_be_read_is_no_success(dispatcher: FakeDispatcher) -> None:
    dispatcher.document = DOCUMENT | {"version": "aos-evidence/9"}
    said = submit()
    assert (said.exit_code, said.stdout) == (1, "")
    assert f"error: job {JOB}: its evidence cannot be read" in said.stderr


def test_waiting_prints_the_answers(dispatcher: FakeDispatcher) -> None:
    said = submit("--wait")
    lines = said.stdout.splitlines()
    assert lines[0] == JOB
    assert lines[1:] == [line for row in ROWS for line in (row["operator"], row["result"])]


def test_waiting_for_a_job_that_fails_fails(dispatcher: FakeDispatcher) -> None:
    dispatcher.status = "failed"
    said = submit("--wait")
    assert (said.exit_code, said.stdout) == (1, f"{JOB}\n")
    assert said.stderr.endswith(f"error: job {JOB} failed: no operator for this model\n")


@pytest.mark.parametrize(
    ("given", "missing"), [(["--project", "p"], "--model NAME"), (["--model", "m"], "--project ID")]
)
def test_what_only_a_local_stack_tells_must_be_given(
    dispatcher: FakeDispatcher, given: list[str], missing: str
) -> None:
    said = runner.invoke(app, ["submit", "?", *HERE, *given])
    assert said.exit_code == 1
    assert said.stderr.startswith(f"error: {missing} is needed")


def test_results_are_shown_or_printed_as_json(dispatcher: FakeDispatcher) -> None:
    assert ROWS[0]["result"] in runner.invoke(app, ["result", JOB, *HERE[:2]]).stdout
    assert json.loads(runner.invoke(app, ["result", JOB, "--json", *HERE[:2]]).stdout) == ROWS


def test_no_result_yet(dispatcher: FakeDispatcher) -> None:
    dispatcher.rows = []
    said = runner.invoke(app, ["result", JOB, *HERE[:2]])
    assert (said.exit_code, said.stdout) == (0, "")
    assert said.stderr == f"there is no answer yet: aos detail {JOB} tells how the job stands\n"


def test_detail_is_json_that_a_person_can_read(dispatcher: FakeDispatcher) -> None:
    shown = runner.invoke(app, ["detail", JOB, *HERE[:2]]).stdout
    assert json.loads(shown)["status"] == "completed"
    assert '"prompt": "naïve"' in shown


def test_a_verified_job(dispatcher: FakeDispatcher) -> None:
    shown = runner.invoke(app, ["verify", JOB, *HERE])
    assert shown.exit_code == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["PASS"] * 11
    table = json.loads(runner.invoke(app, ["verify", JOB, "--json", *HERE]).stdout)
    assert (table["job_id"], table["passed"], len(table["checks"])) == (JOB, True, 11)


def test_a_job_that_is_not_verified_fails(dispatcher: FakeDispatcher) -> None:
    dispatcher.rows = [ROWS[0] | {"result": "another"}, *ROWS[1:]]
    for more in ([], ["--json"]):
        shown = runner.invoke(app, ["verify", JOB, *HERE, *more])
        assert shown.exit_code == 1
        assert "AOS-ANSWER-1" in shown.stdout
        assert shown.stderr == "error: not every check passed: this job is not verified\n"


def test_an_address_that_is_not_known_is_no_pass(dispatcher: FakeDispatcher) -> None:
    shown = runner.invoke(app, ["verify", JOB, *HERE[:2]])
    assert shown.exit_code == 1
    assert shown.stdout.startswith("SKIP  AOS-PIN-1")


def test_an_error_of_the_api_is_one_line(dispatcher: FakeDispatcher) -> None:
    said = runner.invoke(app, ["cancel", JOB, *HERE[:2]])
    assert (said.exit_code, said.stdout, said.stderr) == (1, "", "error: an API token is required (401)\n")


@pytest.mark.parametrize("job_id", ["", "12", "AB" * 32, "../detail", "ab" * 33])
def test_what_is_no_job_id_is_never_sent(dispatcher: FakeDispatcher, job_id: str) -> None:
    for command in ("result", "detail", "verify", "cancel"):
        said = runner.invoke(app, [command, job_id, *HERE[:2]])
        assert said.exit_code == 2
        assert "a job id is 64 lower-case hex digits" in said.stderr.replace("\n", " ")
    assert dispatcher.asked == []


def test_what_is_no_address_is_a_usage_error(dispatcher: FakeDispatcher) -> None:
    said = runner.invoke(app, ["verify", JOB, "--dispatcher", "http://d", "--dispatcher-address", "0x12"])
    assert said.exit_code == 2
    assert "is no address" in said.stderr


def test_the_running_stack_is_found(dispatcher: FakeDispatcher, tmp_path: Path) -> None:
    import os

    folder = DataFolder(tmp_path / "data")
    folder.make()
    folder.keystore("dispatcher").write_text(json.dumps({"address": DISPATCHER.address}))
    folder.token_file.write_text("aos_local\n")
    running = Running(pid=os.getpid(), url="http://127.0.0.1:8123", project="shop", model="tiny.gguf")
    params = ["--temperature", "1.0", "--top-p", "0.5", "--max-tokens", "1024"]
    with folder.announced(running):
        said = runner.invoke(app, ["submit", "What is AI?", "--user", "device 1", *params])
        verified = runner.invoke(app, ["verify", JOB])
    assert (said.exit_code, verified.exit_code) == (0, 0)
    assert dispatcher.asked[0] == "http://127.0.0.1:8123"
    assert dispatcher.token == "aos_local"
    assert runner.invoke(app, ["verify", JOB]).stderr.startswith("error: no dispatcher is named")


def test_the_environment_names_dispatcher_and_token(
    dispatcher: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOS_DISPATCHER", "https://dispatcher.example")
    monkeypatch.setenv("AOS_DISPATCHER_ADDRESS", DISPATCHER.address)
    monkeypatch.setenv("AOS_TOKEN", "aos_environment")
    assert runner.invoke(app, ["verify", JOB]).exit_code == 0
    assert dispatcher.asked == ["https://dispatcher.example"]
    assert dispatcher.token == "aos_environment"


def test_the_demo_model_is_the_default_and_must_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from aos_cli import models

    assert models.model_file(None) == models.DEMO_MODEL
    monkeypatch.setattr(models, "DEMO_MODEL", tmp_path / "gone.gguf")
    said = runner.invoke(app, ["up", "--data", str(tmp_path)])
    assert said.exit_code == 1
    assert "the demo model is part of the checkout; give another with --model" in said.stderr


def test_the_client_that_commands_use_is_the_real_one() -> None:
    assert jobs.DispatcherClient is DispatcherClient
