"""docs/api.md is executed: every command on it runs, and every answer has the form that it shows."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from acceptance.processes import SCRIPTS, Network

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
END = "\x1e"


def examples() -> list[tuple[str, Any]]:
    """The page's commands in order, each with the answer that it shows, or None."""
    blocks = re.findall(r"^```(sh|json)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found: list[tuple[str, Any]] = []
    for language, text in blocks:
        if language == "sh":
            found.append((text, None))
        else:
            assert found[-1][1] is None, text
            found[-1] = found[-1][0], json.loads(text)
    return found


def form(value: Any) -> Any:
    """What a value looks like: keys and types. A vector clock's participants differ from run to run."""
    if isinstance(value, dict):
        return (
            "clock"
            if value and all(key.isdigit() for key in value)
            else {k: form(v) for k, v in value.items()}
        )
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return type(value)


@pytest.fixture(scope="module")
def outputs(network: Network, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each block of commands printed, all of them run in one shell."""
    blocks = [command for command, _ in examples()]
    here = {"URL=": f"URL={network.url}", "TOKEN=": f"TOKEN={network.token}"}
    blocks[0] = "\n".join(here[line.partition("=")[0] + "="] for line in blocks[0].splitlines())
    ran = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", f"\nprintf '{END}'\n".join(blocks)],
        cwd=tmp_path_factory.mktemp("api"),
        env=os.environ | {"AOS_DATA": str(network.data), "PATH": f"{SCRIPTS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.split(END)


def test_every_answer_has_the_form_that_the_page_shows(outputs: list[str]) -> None:
    shown = [answer for _, answer in examples()]
    assert len(outputs) == len(shown) > 9
    for output, answer in zip(outputs, shown, strict=True):
        if answer is not None:
            assert form(json.loads(output)) == form(answer)


def test_every_path_is_on_the_page_and_the_other_way_round(network: Network) -> None:
    listed = set(re.findall(r"^\| `((?:GET|POST) /api/\S+)` \|", PAGE.read_text(), re.MULTILINE))
    described = {
        f"{method.upper()} {path}"
        for path, methods in network.ask("/openapi.json")["paths"].items()
        if path.startswith("/api/")
        for method in methods
    }
    assert listed == described


def test_every_request_of_the_page_is_made_by_an_example_or_by_the_command_that_it_names() -> None:
    commands = "".join(command for command, _ in examples())
    unused = {
        path
        for path in re.findall(r"^\| `(?:GET|POST) (/api/[\w/]+)", PAGE.read_text(), re.MULTILINE)
        if path not in commands
    }
    assert unused == {"/api/operator/appeal"}, "only a suspended operator can appeal"


def test_answers_without_chance_are_those_of_the_page(outputs: list[str]) -> None:
    same = [
        (output, answer) for output, (_, answer) in zip(outputs, examples(), strict=True) if is_fixed(answer)
    ]
    assert len(same) == 4
    for output, answer in same:
        assert json.loads(output) == answer
    assert "the same\n" in outputs


def is_fixed(answer: Any) -> bool:
    return (
        isinstance(answer, dict)
        and (not isinstance(answer.get("result", ""), list | dict))
        and len(str(answer)) < 200
    )
