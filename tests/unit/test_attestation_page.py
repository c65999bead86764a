"""The page about attestation says what programs and scripts say."""

import re
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from aos_cli.main import app as aos
from aos_protocol.attestation.policy import NITRO_ROOT_G1, AttestationPolicy, Build, ModelPolicy, Trusted
from aos_tee_worker.heart import STALLED_S
from aos_tee_worker.main import app as tee_worker
from aos_tee_worker.supervisor import Timing

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "attestation.md").read_text()
GUIDE = (ROOT / "docs" / "operator-guide.md").read_text()
FENCED = re.compile("```.*?```", re.DOTALL)
COMMANDS = [
    *re.findall(r"`([^`]+)`", " ".join(FENCED.sub("", PAGE).split())),
    *re.findall(r"^ *(scripts/(?:[^\n]*\\\n)*[^\n]*)$", PAGE + GUIDE, re.MULTILINE),
]
"""All inline code of the page, and the scripts' lines of both pages' blocks."""


def options_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


@pytest.mark.parametrize("script", ["init_env.sh", "run_tee.sh", "restart_tee.sh"])
def test_scripts_have_the_options_that_it_gives_them(script: str) -> None:
    used = [each for each in COMMANDS if re.match(rf"(?:sudo )?scripts/{script}\b", each)]
    head = (ROOT / "scripts" / script).read_text().split("set -euo")[0]
    assert used
    for command in used:
        assert options_of(command) <= options_of(head), command


@pytest.mark.parametrize("name", ["attest", "submit", "result", "verify", "up"])
def test_aos_has_the_options_that_it_gives_it(name: str) -> None:
    group = typer.main.get_group(aos)
    command = group.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    used = [each for each in COMMANDS if each.startswith(f"aos {name} ")]
    assert used or name == "up"
    for each in used:
        assert options_of(each) <= known, each


def test_the_worker_has_the_options_that_it_gives_it() -> None:
    said = CliRunner().invoke(tee_worker, ["--help"], env={"COLUMNS": "200"}).output
    used = [each for each in COMMANDS if each.startswith("tee-worker ")]
    assert len(used) >= 3
    for each in used:
        assert options_of(each) <= options_of(said), each


def test_it_explains_every_key_of_a_policy() -> None:
    table = PAGE.split("## The policy")[1].split("##")[0]
    explained = set(re.findall(r"[a-z_0-9-]+", " ".join(re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE))))
    keys: set[str] = set()
    for model in (AttestationPolicy, ModelPolicy, Trusted, Build):
        keys |= {field.alias or name for name, field in model.model_fields.items()}
    assert keys - {"version", "name"} <= explained


def test_it_pins_the_root_that_the_program_pins() -> None:
    assert f"`{NITRO_ROOT_G1}`" in PAGE
    assert f"`{NITRO_ROOT_G1[:8]}…{NITRO_ROOT_G1[-8:]}`" in PAGE


def test_its_checks_exist() -> None:
    sources = "\n".join(
        path.read_text() for room in ("protocol", "cli") for path in (ROOT / room).rglob("*.py")
    )
    named = set(re.findall(r"AOS-[A-Z]+-\d", PAGE))
    assert {"AOS-ENCLAVE-1", "AOS-ATTEST-1", "AOS-SEALED-1"} <= named
    for each in named:
        assert each in sources, each


def test_its_metrics_exist() -> None:
    source = (ROOT / "tee_worker/aos_tee_worker/metrics.py").read_text()
    named = set(re.findall(r"aos_enclave_[a-z_]+", PAGE))
    assert len(named) == 4
    for each in named:
        assert each in source, each


def test_its_times_are_the_supervisors() -> None:
    timing = Timing()
    text = " ".join(PAGE.split())
    assert f"has not beaten for {timing.silence:g} s" in text
    assert (STALLED_S, timing.pause) == (300, 0.5)
    assert "takes five minutes" in text
    assert f"after half a second at first and up to {timing.longest_pause:g} s" in text
