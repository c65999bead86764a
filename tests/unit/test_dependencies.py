"""The licence list and the dependency audit: what they read, allow and refuse. What they look at is scripts/test.sh's business."""

import importlib.util
import json
import subprocess
import sys
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


licences, audit = script("licences"), script("audit")
PINNED = """\
aiohttp==3.14.5 \\
    --hash=sha256:00
    # via web3
uvloop==0.21.0 ; sys_platform != "win32" \\
    --hash=sha256:00
llama-cpp-python==0.3.36
"""


def test_packages_are_read_from_requirements() -> None:
    assert licences.packages(PINNED) == ["aiohttp", "uvloop", "llama-cpp-python"]
    assert audit.pins(PINNED) == ["aiohttp==3.14.5", "llama-cpp-python==0.3.36", "uvloop==0.21.0"]


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        ({"License-Expression": "MIT OR Apache-2.0", "License": "GPL"}, "MIT OR Apache-2.0"),
        ({"Classifier": "License :: OSI Approved :: MIT License", "License": "?"}, "MIT"),
        ({"Classifier": "License :: OSI Approved", "License": "Apache 2.0"}, "Apache-2.0"),
        ({"License": "MIT License\n\nCopyright"}, "MIT"),
        ({"License": "Ours"}, "Ours"),
        ({}, "unknown"),
    ],
)
def test_a_licence_is_what_the_metadata_says(
    monkeypatch: pytest.MonkeyPatch, stated: dict[str, str], read: str
) -> None:
    message = Message()
    for name, value in stated.items():
        message.add_header(name, value)
    monkeypatch.setattr(licences, "metadata", lambda _: message)
    assert licences.licence("x") == read


@pytest.mark.parametrize(
    ("expression", "bad"),
    [
        ("MIT", []),
        ("Apache-2.0 AND MIT", []),
        ("GPL-3.0-only OR MIT", []),
        ("GPL-3.0-only", ["GPL-3.0-only"]),
        ("MIT AND GPL-3.0-only", ["GPL-3.0-only"]),
        ("GPL-3.0-only OR AGPL-3.0-only", ["GPL-3.0-only OR AGPL-3.0-only"]),
        ("BSD-3-Clause AND GPL-2.0-only OR ISC AND Ours", ["BSD-3-Clause AND GPL-2.0-only OR ISC AND Ours"]),
        ("Apache-2.0 WITH LLVM-exception", ["Apache-2.0 WITH LLVM-exception"]),
        ("unknown", ["unknown"]),
    ],
)
def test_what_is_not_on_the_list_is_refused(expression: str, bad: list[str]) -> None:
    assert licences.refused(expression) == bad


def test_a_tool_of_the_tests_may_have_another_licence_and_what_runs_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stated = {"yamllint": "GPL-3.0-or-later", "x": "GPL-3.0-or-later", "y": "MIT"}
    monkeypatch.setattr(licences, "licence", stated.__getitem__)
    assert licences.wrong(["y"], ["yamllint", "y"]) == []
    assert licences.wrong(["y"], ["x"]) == ["x: GPL-3.0-or-later"]
    assert licences.wrong(["yamllint"], []) == ["yamllint: GPL-3.0-or-later"]
    assert "| yamllint | GPL-3.0-or-later | a linter" in licences.page(["y"], ["yamllint"])


def report(*dependencies: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(dependencies)}


SKIPPED = {"name": "b", "skip_reason": "Dependency not found on PyPI"}
FINE: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}]}


def test_findings_are_named_unless_they_were_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert audit.findings(report(FINE)) == []
    assert audit.findings(report(FINE, BAD)) == ["c 2: PYSEC-1, fixed in 3"]
    assert audit.findings(report(FINE, SKIPPED)) == ["b: not looked up: Dependency not found on PyPI"]
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-1": "we never call it"})
    assert audit.findings(report(FINE, BAD)) == []


@pytest.mark.parametrize(
    ("answers", "status", "said"),
    [
        (["Traceback: no route to host"], 0, "SKIPPED"),
        ([report(SKIPPED)], 0, "SKIPPED"),
        ([report(FINE)] * 10, 0, "0 findings"),
        ([report(FINE), report(BAD), *[report(FINE)] * 8], 1, "c 2: PYSEC-1"),
        ([report(FINE), report(FINE), "Traceback", *[report(FINE)] * 8], 1, "went away"),
    ],
)
def test_the_audit_skips_only_where_nothing_can_be_asked(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: list[Any],
    status: int,
    said: str,
) -> None:
    coming = iter(answers)

    def answer(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "pip_audit"]
        given = next(coming)
        return subprocess.CompletedProcess(
            command, 0, given if isinstance(given, str) else json.dumps(given), ""
        )

    monkeypatch.setattr(subprocess, "run", answer)
    assert audit.main() == status
    assert said in "".join(capsys.readouterr())
