import re
import types
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from aos_cli import doctor_chain, doctor_dispatcher, doctor_machine, doctor_operator
from aos_cli.client import DispatcherClient
from aos_cli.data import DataFolder
from aos_cli.errors import CliError, EmbeddedError
from aos_cli.failures import NoDispatcher, PortTaken, Unreachable
from aos_cli.findings import Finding, NotLookedAt, find
from aos_cli.main import app
from aos_cli.target import Target
from aos_inference.errors import ModelUnreadable
from aos_operator.errors import StartError, WorkerUnavailable
from aos_protocol.errors import InvalidFrame
from aos_protocol.identity import Signer
from aos_service.errors import DatabaseError
from unit.cli.sealing import enclave

SIGNER = Signer(b"\x03" * 32)


class FakeServer:
    """Stands for an embedded server that starts, or does not."""

    def __init__(self, name: str, problem: str = "") -> None:
        self.name = name
        self._problem = problem

    async def __aenter__(self) -> None:
        if self._problem:
            raise EmbeddedError(self._problem)

    async def __aexit__(self, *_error: object) -> None:
        return None


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine on which everything is well; tests spoil it."""
    fake = types.SimpleNamespace(port_taken=False, postgres="", dispatcher=None)

    class Reserved:
        def close(self) -> None:
            return None

    def reserve(port: int) -> Reserved:
        if fake.port_taken:
            raise PortTaken(f"port {port} cannot be used")
        return Reserved()

    monkeypatch.setattr(doctor_machine.ports, "reserve", reserve)
    monkeypatch.setattr(
        doctor_machine, "EmbeddedPostgres", lambda *_, **__: FakeServer("PostgreSQL", fake.postgres)
    )
    monkeypatch.setattr(doctor_machine, "EmbeddedValkey", lambda *_, **__: FakeServer("Valkey"))
    monkeypatch.setattr(
        doctor_machine.shutil, "which", lambda name: "/usr/bin/c++" if name == "c++" else None
    )
    return fake


async def looked_at(findings: Any) -> dict[str, Finding]:
    return {finding.name: finding async for finding in findings}


async def on_machine(tmp_path: Path, model: Path | None = None) -> dict[str, Finding]:
    return await looked_at(doctor_machine.machine_findings(model, 8000, DataFolder(tmp_path / "data")))


async def test_a_machine_on_which_all_is_well(tmp_path: Path, demo_model: Path) -> None:
    found = await on_machine(tmp_path, demo_model)
    assert {finding.status for finding in found.values()} == {"PASS"}
    assert found["port"].what == "8000 is free"
    assert re.fullmatch(r"starts, in 0\.\d s", found["embedded PostgreSQL"].what)
    assert re.search(r"tensors, [\d,]+ bytes, SHA-256 [0-9a-f]{64}$", found["model file"].what)


async def test_what_is_wrong_says_what_to_do(
    tmp_path: Path, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.port_taken, machine.postgres = True, "PostgreSQL does not start"
    monkeypatch.setattr(doctor_machine.shutil, "which", lambda _: None)
    monkeypatch.setattr(doctor_machine.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(doctor_machine.platform, "python_version", lambda: "3.9.1")
    monkeypatch.setattr(doctor_machine.platform, "python_version_tuple", lambda: ("3", "9", "1"))
    found = await on_machine(tmp_path, tmp_path / "none.gguf")
    assert {name for name, finding in found.items() if finding.status == "FAIL"} == {
        "Python",
        "compiler",
        "port",
        "embedded PostgreSQL",
        "model file",
    }
    assert found["Python"].what == "Python 3.9.1 is too old: install 3.11 or newer"
    assert "install g++" in found["compiler"].what
    assert "there is no model file" in found["model file"].what


async def test_no_compiler_is_needed_once_all_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_machine.shutil, "which", lambda _: None)
    assert (await on_machine(tmp_path))["compiler"].status == "SKIP"


async def test_the_port_of_the_running_stack_is_rightly_taken(
    tmp_path: Path, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.port_taken = True
    for url, status in (("http://127.0.0.1:8000", "PASS"), ("http://127.0.0.1:9000", "FAIL")):
        monkeypatch.setattr(DataFolder, "running", lambda _self, url=url: types.SimpleNamespace(url=url))
        assert (await on_machine(tmp_path))["port"].status == status


async def test_half_a_model_is_not_whole(tmp_path: Path, demo_model: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(demo_model.read_bytes()[:4_000_000])
    found = (await on_machine(tmp_path, half))["model file"]
    assert found.status == "FAIL"
    assert "is truncated" in found.what


@pytest.mark.parametrize(
    "error",
    [
        CliError("say"),
        DatabaseError("say"),
        StartError("say"),
        WorkerUnavailable("say"),
        ModelUnreadable("say"),
        InvalidFrame("say"),
    ],
)
async def test_every_error_of_ours_is_a_finding(error: Exception) -> None:
    async def probe() -> str:
        raise error

    assert await find("thing", probe) == Finding("FAIL", "thing", "say")


async def test_a_defect_is_no_finding() -> None:
    async def probe() -> str:
        raise KeyError("defect")

    with pytest.raises(KeyError):
        await find("thing", probe)


async def test_what_was_not_looked_at_is_skipped() -> None:
    async def probe() -> str:
        raise NotLookedAt("nothing to look at")

    assert await find("thing", probe) == Finding("SKIP", "thing", "nothing to look at")


def dispatcher(monkeypatch: pytest.MonkeyPatch, operators: int = 3, **changes: Any) -> None:
    """Let a dispatcher answer: `ready` and `submit` may be changed."""
    refused = {
        "code": 422,
        "message": "no operator has announced model 'x'; there is: a.gguf (opml), b.gguf (tee)",
    }
    ready = httpx.Response(200, json={"operators": operators}, headers=changes.get("headers", {}))
    answers = {"/readyz": ready, "/api/job/submit": changes.get("submit", httpx.Response(422, json=refused))}
    transport = httpx.MockTransport(lambda request: answers[request.url.path])
    monkeypatch.setattr(
        doctor_dispatcher,
        "DispatcherClient",
        lambda url, token: DispatcherClient(url, token=token, transport=transport),
    )


KNOWN = Target("http://dispatcher", None, "aos_token", "demo", None)


async def test_a_dispatcher_that_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher(monkeypatch, headers={"Date": format_datetime(datetime.now(UTC), usegmt=True)})
    found = await looked_at(doctor_dispatcher.dispatcher_findings(lambda: KNOWN))
    assert [(finding.status, finding.name, finding.what) for finding in found.values()] == [
        ("PASS", "dispatcher", "http://dispatcher takes jobs"),
        ("PASS", "operators", "3 connected"),
        ("PASS", "models", "a.gguf (opml), b.gguf (tee)"),
        ("PASS", "clock", "agrees with the dispatcher's"),
    ]


@pytest.mark.parametrize(
    ("date", "said"),
    [
        ("Sat, 01 Jan 2000 00:00:00 GMT", "s behind ours"),
        ("Sat, 01 Jan 2200 00:00:00 GMT", "s ahead of ours"),
    ],
)
async def test_a_clock_that_is_off(monkeypatch: pytest.MonkeyPatch, date: str, said: str) -> None:
    dispatcher(monkeypatch, headers={"Date": date})
    clock = (await looked_at(doctor_dispatcher.dispatcher_findings(lambda: KNOWN)))["clock"]
    assert clock.status == "FAIL"
    assert f"{said}: let NTP set both" in clock.what


async def test_a_dispatcher_with_nobody_and_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher(monkeypatch, operators=0)
    found = await looked_at(
        doctor_dispatcher.dispatcher_findings(lambda: Target("http://dispatcher", None, None, None, None))
    )
    assert [(finding.name, finding.status) for finding in found.values()] == [
        ("dispatcher", "PASS"),
        ("operators", "FAIL"),
        ("models", "SKIP"),
        ("clock", "SKIP"),
    ]
    assert "operator-runner -c FILE" in found["operators"].what


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            httpx.Response(401, json={"code": 401, "message": "the API token is not known here"}),
            "is not known here",
        ),
        (httpx.Response(500, json={}), "HTTP 500"),
    ],
)
async def test_models_that_cannot_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, answer: Any, said: str
) -> None:
    dispatcher(monkeypatch, submit=answer)
    models = (await looked_at(doctor_dispatcher.dispatcher_findings(lambda: KNOWN)))["models"]
    assert models.status == "FAIL"
    assert said in models.what


async def test_a_dispatcher_that_does_not_answer_is_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_self: DispatcherClient) -> None:
        raise Unreachable("nothing answers at http://dispatcher")

    monkeypatch.setattr(DispatcherClient, "ready", refuse)
    found = await looked_at(doctor_dispatcher.dispatcher_findings(lambda: KNOWN))
    assert [finding.status for finding in found.values()] == ["FAIL"]


async def test_no_dispatcher_to_look_at() -> None:
    def none() -> Target:
        raise NoDispatcher("start one with `aos up`")

    found = await looked_at(doctor_dispatcher.dispatcher_findings(none))
    assert list(found.values()) == [Finding("SKIP", "dispatcher", "start one with `aos up`")]


def operator_file(tmp_path: Path, **node: str) -> Path:
    file = tmp_path / "operator.yaml"
    key = node.pop("signer_key", SIGNER.secret.hex())
    extra = "".join(f"  {name}: {value}\n" for name, value in node.items())
    file.write_text(
        "db:\n  pg_db_url: postgres://u:p@127.0.0.1:1/o\n"
        "queue:\n  queue_url: redis://127.0.0.1:1/0\n"
        "net:\n  dispatcher_url: ws://127.0.0.1:1/ws\n  worker_url: unix:///nowhere/worker.sock\n"
        f'node:\n  signer_key: "{key}"\n  dispatcher_address: "{SIGNER.address}"\n{extra}'
    )
    file.chmod(0o600)
    return file


async def test_wrong_settings_are_all_told_and_nothing_else_is_looked_at(tmp_path: Path) -> None:
    file = operator_file(tmp_path, node_type="nope", unknown="1")
    findings = [finding async for finding in doctor_operator.operator_findings(file)]
    assert [(finding.status, finding.name) for finding in findings] == [("FAIL", "operator settings")] * 2
    assert "node.node_type" in findings[0].what
    assert "unknown key" in findings[1].what


async def test_a_key_that_is_not_the_node_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in ("_database", "_queue", "_worker", "_dispatcher"):
        monkeypatch.setattr(doctor_operator, probe, lambda _settings: _well())
    stranger = Signer(b"\x04" * 32).address
    found = await looked_at(
        doctor_operator.operator_findings(operator_file(tmp_path, node_id=f'"{stranger}"'))
    )
    assert found["operator key"].status == "FAIL"
    assert f"node.node_id is {stranger}, the key is that of {SIGNER.address}" in found["operator key"].what
    found = await looked_at(
        doctor_operator.operator_findings(operator_file(tmp_path, node_id=f'"{SIGNER.address}"'))
    )
    assert {finding.status for finding in found.values()} == {"PASS"}


async def test_an_enclave_says_what_it_is_and_the_doctor_says_that_it_is_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = enclave(tmp_path / "simulator"), list[str]()

    async def fetch(url: str, nonce: str) -> Any:
        asked.append(url)
        return made.keyring.attestation(nonce)

    for probe in ("_database", "_queue", "_worker", "_dispatcher"):
        monkeypatch.setattr(doctor_operator, probe, lambda _settings: _well())
    monkeypatch.setattr(doctor_operator, "fetch_attestation", fetch)
    found = await looked_at(doctor_operator.operator_findings(operator_file(tmp_path, node_type="tee")))
    said = found["operator enclave"]
    assert said.status == "PASS"
    assert said.what.startswith("SIMULATED, which proves nothing: enclave of the tests, keyset ")
    assert " for 24.0 h more; aos attest unix:///nowhere/worker.sock --policy FILE holds it" in said.what
    usual = await looked_at(doctor_operator.operator_findings(operator_file(tmp_path)))
    assert "operator enclave" not in usual
    assert asked == ["unix:///nowhere/worker.sock"]


async def test_an_enclave_that_does_not_answer_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(url: str, _nonce: str) -> Any:
        raise Unreachable(f"no worker answers at {url}")

    for probe in ("_database", "_queue", "_worker", "_dispatcher"):
        monkeypatch.setattr(doctor_operator, probe, lambda _settings: _well())
    monkeypatch.setattr(doctor_operator, "fetch_attestation", away)
    found = await looked_at(doctor_operator.operator_findings(operator_file(tmp_path, node_type="tee")))
    said = Finding("FAIL", "operator enclave", "no worker answers at unix:///nowhere/worker.sock")
    assert found["operator enclave"] == said


async def _well() -> str:
    return "well"


def test_the_command_prints_lines_and_fails_when_something_does(
    tmp_path: Path, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AOS_DISPATCHER", "AOS_RPC", "AOS_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor_chain, "SCRIPT", tmp_path / "scripts" / "anvil.sh")
    arguments = ["doctor", "--data", str(tmp_path / "data")]
    well = CliRunner().invoke(app, arguments)
    assert well.exit_code == 0
    assert [line.split()[0] for line in well.stdout.splitlines()] == ["PASS"] * 6 + ["SKIP"] * 3
    machine.port_taken = True
    bad = CliRunner().invoke(app, arguments)
    assert bad.exit_code == 1
    assert "FAIL  port                   port 8000 cannot be used" in bad.stdout
    assert bad.stderr == "1 to mend\n"


@pytest.mark.parametrize(
    ("on_path", "installed", "script", "status", "said"),
    [
        ({"anvil": "/usr/bin/anvil"}, True, True, "PASS", "/usr/bin/anvil"),
        ({}, True, True, "PASS", "bin/anvil"),
        (
            {"npm": "/usr/bin/npm"},
            False,
            True,
            "SKIP",
            "not installed yet: aos up --chain has npm install it",
        ),
        ({}, False, True, "SKIP", "aos up --chain needs it: install Node.js 20 or newer"),
        ({"npm": "/usr/bin/npm"}, False, False, "SKIP", "aos up --chain needs it"),
    ],
)
async def test_anvil_is_looked_for_and_not_installed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_path: dict[str, str],
    installed: bool,
    script: bool,
    status: str,
    said: str,
) -> None:
    folder = (
        tmp_path / ".aos" / "anvil" / "abc" / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin"
    )
    if installed:
        folder.mkdir(parents=True)
        (folder / "anvil").touch()
    monkeypatch.setattr(doctor_chain, "SCRIPT", tmp_path / "scripts" / "anvil.sh")
    if script:
        (tmp_path / "scripts").mkdir()
        (tmp_path / "scripts" / "anvil.sh").touch()
    monkeypatch.setattr(doctor_chain.shutil, "which", on_path.get)
    found = await looked_at(doctor_chain.chain_findings(tmp_path / "data", None, None))
    assert (found["anvil"].status, found["chain"].status) == (status, "SKIP")
    assert said in found["anvil"].what
    assert "no chain is named" in found["chain"].what


async def test_an_operator_on_a_chain_has_its_range_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(rpc: str, registry: str, operator: str) -> str:
        raise CliError(f"{operator} has no range in {registry} at {rpc}")

    for probe in ("_database", "_queue", "_worker", "_dispatcher"):
        monkeypatch.setattr(doctor_operator, probe, lambda _settings: _well())
    monkeypatch.setattr(doctor_operator, "registered", away)
    file = operator_file(tmp_path)
    registry = "0x" + "12" * 20
    file.write_text(
        file.read_text()
        + f'chain:\n  chain_rpc_url: http://127.0.0.1:1\n  vrf_range_contract: "{registry}"\n'
    )
    found = await looked_at(doctor_operator.operator_findings(file))
    said = Finding(
        "FAIL", "operator chain", f"{SIGNER.address} has no range in {registry} at http://127.0.0.1:1"
    )
    assert found["operator chain"] == said
