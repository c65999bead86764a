"""`aos doctor --backend` and what it says of an operator's backends; the servers are in tests/integration/operator/test_real_model_servers.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from aos_cli import doctor_backend, doctor_machine, doctor_operator
from aos_cli.findings import Finding, Findings
from aos_cli.main import app
from aos_operator.backends.settings import BackendSettings
from aos_operator.errors import WorkerUnavailable
from aos_protocol.messages import ServedModel

URL = "http://127.0.0.1:11434"


@pytest.fixture(autouse=True)
def _no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is looked at."""

    def machine(*_arguments: object) -> Findings:
        raise AssertionError("this is about a model server only")

    monkeypatch.setattr(doctor_machine, "machine_findings", machine)


def findings(*found: Finding) -> Any:
    async def look(url: str, key: Path | None) -> Findings:
        assert (url, key) == (URL, None)
        for finding in found:
            yield finding

    return look


def test_what_is_found_is_shown_and_the_settings_stand_in_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = "in place of net.worker_url:\nbackends:\n- kind: ollama"
    found = [Finding("SKIP", "backend logprobs", "none"), Finding("PASS", "backend settings", settings)]
    monkeypatch.setattr(doctor_backend, "backend_findings", findings(*found))
    shown = CliRunner().invoke(app, ["doctor", "--backend", URL])
    assert shown.exit_code == 0
    assert shown.output.splitlines() == [
        "SKIP  backend logprobs       none",
        "PASS  backend settings       in place of net.worker_url:",
        "backends:",
        "- kind: ollama",
    ]


def test_what_fails_makes_the_exit_status_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_backend, "backend_findings", findings(Finding("FAIL", "backend", "gone")))
    assert CliRunner().invoke(app, ["doctor", "--backend", URL]).exit_code == 1


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), (b"\n", "is empty"), (b"\xff", "cannot be read")]
)
def test_a_key_file_without_a_key_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    shown = CliRunner().invoke(app, ["doctor", "--backend", URL, "--api-key-file", str(file)])
    assert shown.exit_code == 1
    assert said in shown.output


class Stand:
    """A backend that serves these models, or raises."""

    def __init__(self, served: Sequence[ServedModel] | Exception) -> None:
        self._served = served
        self.closed = False

    async def models(self) -> Sequence[ServedModel]:
        if isinstance(self._served, Exception):
            raise self._served
        return self._served

    async def close(self) -> None:
        self.closed = True


SERVED = ServedModel(name="m", sha256="ab" * 32, evidence="text")


@pytest.mark.parametrize(
    ("served", "status", "said"),
    [
        ([SERVED], "PASS", "ollama serves m (text)"),
        ([], "FAIL", "ollama: it serves nothing of what its models name now: load it there, or correct them"),
        (WorkerUnavailable("gone"), "FAIL", "gone"),
    ],
)
async def test_each_backend_of_an_operator_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Any, status: str, said: str
) -> None:
    async def well(*_arguments: object) -> str:
        return "well"

    for probe in ("_key", "_database", "_queue", "_dispatcher"):
        monkeypatch.setattr(doctor_operator, probe, well)
    stands: list[Stand] = []

    def open_backend(entry: BackendSettings, timeout: float) -> Stand:
        assert (entry.kind, timeout) == ("ollama", 10)
        stands.append(Stand(served))
        return stands[-1]

    monkeypatch.setattr(doctor_operator, "open_backend", open_backend)
    file = tmp_path / "operator.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "db": {"pg_db_url": "postgres://h/x"},
                "queue": {"queue_url": "redis://h"},
                "net": {"dispatcher_url": "ws://h/ws"},
                "node": {"dispatcher_address": "0x" + "00" * 20},
                "backends": [{"kind": "ollama"}, {"kind": "ollama"}],
            }
        )
    )
    found = {finding.name: finding async for finding in doctor_operator.operator_findings(file)}
    assert "operator worker" not in found
    assert found["operator backend 1"] == Finding(status, "operator backend 1", said)  # type: ignore[arg-type]
    assert found["operator backend 2"].status == status
    assert [stand.closed for stand in stands] == [True, True]
