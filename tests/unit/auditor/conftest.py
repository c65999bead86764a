"""Documents that auditors get, and where they lie."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.evidence import Story


@pytest.fixture
def document() -> dict[str, Any]:
    story = Story(operators=4)
    story.own()
    return story.document()


@pytest.fixture
def evidence_file(document: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(document))
    return file
