"""`aos-audit` as it is typed: lines, verdict, JSON, and what its exit status says."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aos_auditor.main import app
from aos_auditor.report import as_json, exit_status, printable, verdict
from aos_protocol.evidence import Check
from support.evidence import CHEATING, DISPATCHER, Story

PASS, FAIL, SKIP = (Check(f"AOS-{word}-1", word, "it") for word in ("PASS", "FAIL", "SKIP"))  # type: ignore[arg-type]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_good_file_ends_with_a_verdict_and_status_0(evidence_file: Path) -> None:
    done = run(evidence_file, "--dispatcher-address", DISPATCHER.address.lower(), "--strict")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("PASS  AOS-PIN-1 ")
    assert lines[-1].startswith("verdict: PASS (")
    assert all(line.startswith("PASS  AOS-") for line in lines[:-1])
    assert run("job", evidence_file).stdout.splitlines()[1:-1] == lines[1:-1], "it is short for `job`"


def test_a_skip_is_no_pass_and_fails_only_when_strict(evidence_file: Path) -> None:
    done = run(evidence_file)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0].startswith("SKIP  AOS-PIN-1 ")
    assert done.stdout.splitlines()[-1].endswith(
        "not everything could be checked (18 passed, 0 failed, 1 skipped)"
    )
    assert run("--strict", evidence_file).exit_code == 2


def test_a_failure_wins(tmp_path: Path) -> None:
    story = Story(operators=4, distance=CHEATING)
    story.own()
    story.challenge()
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(story.document()))
    done = run(file, "--strict")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("verdict: FAIL (")
    assert [line[:18] for line in done.stdout.splitlines() if line.startswith("FAIL")] == [
        "FAIL  AOS-MATCH-1 "
    ]


def test_json_has_the_same(evidence_file: Path) -> None:
    done = json.loads(run(evidence_file, "--json", "--strict").stdout)
    assert (done["passed"], done["failed"], done["skipped"], done["exit_status"]) == (18, 0, 1, 2)
    assert done["subject"] == str(evidence_file)
    assert done["checks"][0]["id"] == "AOS-PIN-1"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing.json",),
        ("0" * 64,),
        ("0" * 64, "--dispatcher", "no address"),
        ("x", "--dispatcher-address", "0x1"),
        ("x", "--policy", "nothing.yaml"),
        ("x", "--token-file", "nothing", "--dispatcher", "http://127.0.0.1:1"),
        ("x", "--deployment", "nothing.json"),
        ("x", "--anchor", DISPATCHER.address),
        ("x", "--deployment", "y", "--registry", DISPATCHER.address),
        ("x", "--no-such-option"),
        ("x", "y"),
        ("watch",),
        (),
    ],
)
def test_what_cannot_be_audited_ends_with_status_3(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 3
    assert done.output.strip() != ""
    assert "Traceback" not in done.output


def test_a_document_that_is_none_fails(tmp_path: Path) -> None:
    file = tmp_path / "evidence.json"
    file.write_text("{}")
    done = run(file)
    assert done.exit_code == 1
    assert done.stdout.startswith("FAIL  AOS-DOCUMENT-1  ")


@pytest.mark.parametrize("command", [(), ("job",), ("watch",)])
def test_help_tells_each_exit_status_and_an_example(command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    for said in ("Exit status: 0", "xample", "aos-audit", "3 nothing could be audited"):
        assert said in text


@pytest.mark.parametrize(
    ("checks", "strict", "status"),
    [
        ([PASS], True, 0), ([PASS, SKIP], False, 0), ([PASS, SKIP], True, 2), ([SKIP, FAIL], True, 1), ([FAIL], False, 1),
        ([], False, 1),
    ],
)  # fmt: skip
def test_the_exit_status(checks: list[Check], strict: bool, status: int) -> None:
    assert exit_status(checks, strict=strict) == status
    told: dict[str, Any] = as_json("x", checks, strict=strict)
    assert told["exit_status"] == status


def test_nothing_checked_is_no_pass() -> None:
    assert verdict([]) == "verdict: FAIL (0 passed, 0 failed, 0 skipped)"


def test_who_is_audited_does_not_draw_on_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\r\x07\N{RIGHT-TO-LEFT OVERRIDE}d é") == "a�[2Jb�c���d é"
