"""All of deploy/: YAML that is in order, and scripts that shells accept."""

import subprocess

import pytest
from yamllint import linter
from yamllint.config import YamlLintConfig

from support.deploy import DEPLOY

RULES = YamlLintConfig(file=str(DEPLOY / ".yamllint.yaml"))
FILES = sorted(
    str(file.relative_to(DEPLOY)) for file in DEPLOY.rglob("*.yaml") if "secrets" not in file.parts
)
SCRIPTS = sorted(file.name for file in DEPLOY.glob("*.sh"))


@pytest.mark.parametrize("file", FILES)
def test_yamllint_finds_nothing(file: str) -> None:
    with (DEPLOY / file).open(encoding="utf-8") as said:
        assert [str(problem) for problem in linter.run(said, RULES)] == []


def test_yamllint_would_find_something() -> None:
    assert [problem.rule for problem in linter.run("a: 1\na: 2\n", RULES)] == ["key-duplicates"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_one_that_bash_reads_and_that_may_be_run(script: str) -> None:
    assert (DEPLOY / script).stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", DEPLOY / script], check=False).returncode == 0
