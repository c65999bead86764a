"""docs/api.md is executed: every command on it runs, and every answer has the form that it shows."""

import json
import re
from typing import Any

import pytest

from acceptance import pages
from acceptance.pages import DOCS, form, run_page
from acceptance.processes import Network

PAGE = DOCS / "api.md"


def examples() -> list[tuple[str, Any]]:
    """The page's commands in order, each with the answer that it shows, or None."""
    return pages.examples(PAGE)


@pytest.fixture(scope="module")
def outputs(network: Network, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each block of commands printed."""
    return run_page(PAGE, network, tmp_path_factory.mktemp("api"))


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
    suspended_only, sealed_by_aos_chat = {"/api/operator/appeal"}, {"/api/session", "/api/session/"}
    assert unused == suspended_only | sealed_by_aos_chat


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
