"""What the enclave's image is made of, as far as that can be seen without docker: its first program, its pins, its recipe."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
ENTRY = ROOT / "tee_worker" / "entry.py"
RECIPE = (ROOT / "tee_worker" / "Dockerfile").read_text()

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give up root, as in an enclave")


def entry() -> ModuleType:
    """The entry program as a module."""
    spec = importlib.util.spec_from_file_location("entry", ENTRY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def become(tmp_path: Path, *, may_attest: bool) -> "subprocess.CompletedProcess[str]":
    """Run the entry program, with the module's answer decided, on a command that says who it is."""
    arguments = tmp_path / "tee-worker.args"
    arguments.write_text("/usr/bin/id\n")
    program = (
        "import importlib.util, pathlib, sys\n"
        f"spec = importlib.util.spec_from_file_location('entry', {str(ENTRY)!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        f"module.may_attest = lambda user: {may_attest}\n"
        f"module.main(pathlib.Path({str(arguments)!r}))\n"
    )
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)


@as_root
def test_the_worker_is_not_root_where_the_module_allows(tmp_path: Path) -> None:
    done = become(tmp_path, may_attest=True)

    assert done.stdout.split()[:3] == ["uid=65532", "gid=65532", "groups=65532"]
    assert done.stderr == ""


@as_root
def test_where_it_does_not_the_worker_stays_root_and_the_console_says_so(tmp_path: Path) -> None:
    done = become(tmp_path, may_attest=False)

    assert done.stdout.startswith("uid=0")
    assert "answers root only" in done.stderr


@as_root
def test_the_module_is_asked_as_the_user_who_is_to_ask_it_later() -> None:
    may_attest = entry().may_attest

    assert may_attest(65532, ["/bin/sh", "-c", 'test "$(id -u) $(id -g) $(id -G)" = "65532 65532 65532"'])
    assert not may_attest(65532, ["/bin/false"])
    assert may_attest(65532, ["/bin/true"])


def test_the_command_line_is_taken_as_it_stands_and_by_no_shell(tmp_path: Path) -> None:
    arguments = tmp_path / "args"
    arguments.write_text(f"{sys.executable}\n-c\nimport sys; print(sys.argv[1:])\n$(id)\na b\n*")
    program = f"import runpy; m = runpy.run_path({str(ENTRY)!r}); g = m['main'].__globals__; "
    program += "g['may_attest'] = lambda user: False; "
    program += f"m['main'](g['Path']({str(arguments)!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['$(id)', 'a b', '*']"


def pins(profile: str) -> dict[str, str]:
    """Which version of each package a requirements file pins."""
    text = (ROOT / "requirements" / f"{profile}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ]+) ", text, re.MULTILINE))


def test_the_image_has_the_versions_that_everything_is_tested_with() -> None:
    worker, everything = pins("worker"), pins("all")

    assert worker["llama-cpp-python"]
    assert {name: everything.get(name) for name in worker} == worker


def test_the_image_has_the_worker_extra_only() -> None:
    assert not pins("worker").keys() & {"sqlalchemy", "asyncpg", "redis", "alembic", "websockets", "dcap-qvl"}


def test_every_pin_has_a_hash() -> None:
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements" / "worker.txt").read_text())
    assert len(entries) == len(pins("worker"))
    assert all("--hash=sha256:" in each for each in entries)


def test_nothing_is_installed_by_name_alone() -> None:
    commands = re.sub(r"\\\n", " ", RECIPE).splitlines()
    steps = [
        step for line in commands for step in line.split("&&") if re.search(r"pip .*(install|download)", step)
    ]
    assert len(steps) == 4
    for step in steps:
        assert "--require-hashes" in step or "--no-index" in step, step
    assert not re.search(r"apt-get|curl|wget|git clone", RECIPE)


def test_base_images_are_arguments_and_the_last_stage_starts_from_nothing() -> None:
    assert re.findall(r"^FROM (\S+)", RECIPE, re.MULTILINE) == ["${BUILDER}", "${BASE}", "scratch"]
    assert not re.search(r"^ARG (BUILDER|BASE)=", RECIPE, re.MULTILINE), "a default would be a tag"


def test_what_starts_in_the_enclave_is_no_shell() -> None:
    (command,) = re.findall(r"^CMD (.*)$", RECIPE, re.MULTILINE)
    assert json.loads(command)[0] == "/opt/aos/bin/python"
    assert "ENTRYPOINT [" not in RECIPE
