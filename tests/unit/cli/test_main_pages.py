"""The pages that everybody reads first: what they point to exists, and what they list is complete."""

import re
import subprocess
from pathlib import Path

import pytest

from aos_cli import checks
from aos_protocol import evidence

ROOT = Path(__file__).parents[3]
NOT_IN_A_DEMO = {"AOS-RECORD-1", "AOS-CHALLENGE-1", "AOS-ELECTORATE-1", "AOS-REJECTION-1"}
BY_THE_AUDITOR = {"AOS-REGISTRY-1", "AOS-ANCHOR-2"}
"""What a demo with a chain has the auditor ask the chain."""

PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/api.md"]


def anchor(heading: str) -> str:
    """The fragment that a heading is reached by."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if fragment:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{page}: {target}"


def test_the_map_has_every_folder() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    folders = {name.partition("/")[0] for name in tracked if "/" in name and not name.startswith(".")}
    if not folders:
        pytest.skip("this is no git checkout")
    house = (ROOT / "README.md").read_text().partition("## The house")[2]
    assert set(re.findall(r"^\| \[`(\w+)/`\]", house, re.MULTILINE)) == folders


def test_the_readme_shows_the_table_of_a_demo_and_the_page_explains_all_checks() -> None:
    ours = set(re.findall(r"AOS-[A-Z]+-\d", checks.__doc__ or ""))
    of_evidence = set(re.findall(r"AOS-[A-Z]+-\d", evidence.__doc__ or ""))
    shown = re.findall(r"^PASS  (AOS-[A-Z]+-\d)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(shown) == (ours | of_evidence | BY_THE_AUDITOR) - NOT_IN_A_DEMO
    explained = set(re.findall(r"^\| (AOS-[A-Z]+-\d)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
    assert explained == of_evidence | {"AOS-PIN-1", "AOS-ANSWER-1"}


@pytest.mark.parametrize("page", PAGES)
def test_lines_fit_an_editor(page: str) -> None:
    prose = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    long = [line for line in prose.splitlines() if len(line) > 140 and not line.startswith("|")]
    assert long == []
