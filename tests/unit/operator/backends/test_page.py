"""docs/backends.md says what the code does."""

import re
from pathlib import Path

from aos_operator.backends.dialects import DIALECTS, Source
from aos_operator.backends.settings import BackendSettings
from aos_protocol.fim import TEMPLATES, choose, render

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")


def rows(header: str) -> list[list[str]]:
    """The cells of the table that begins with this header, without the marks around code."""
    table = PAGE.split(header, 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]
    return [[cell.strip().strip("`").replace("\\|", "|") for cell in row] for row in cells]


def test_every_kind_is_told_with_its_defaults() -> None:
    told = {
        kind: (url, chat, completion, shows) for kind, _, url, chat, completion, shows in rows("| `kind` |")
    }
    assert set(told) == {"worker", *DIALECTS}
    for kind, dialect in DIALECTS.items():
        url, chat, completion, shows = told[kind]
        assert url == dialect.url
        assert (url + chat, url + completion) == (
            Source(kind).base + dialect.chat,
            Source(kind).base + dialect.completion,
        )
        assert shows.split(",")[0] == dialect.evidence


def test_every_key_is_told() -> None:
    assert [row[0] for row in rows("| key |")] == list(BackendSettings.model_fields)


def test_every_template_is_told_with_names_that_choose_it() -> None:
    told = {name: (prompt, names) for name, prompt, names in rows("| name | prompt |")}
    assert set(told) == {*TEMPLATES, "custom:TEXT"}
    for name, template in TEMPLATES.items():
        prompt, names = told[name]
        assert prompt == render(template, "{prefix}", "{suffix}")
        for model in re.findall(r"[\w.…-]+", names):
            assert choose(model.replace("…", "2.5")) is template, model


def test_the_order_of_detection_is_told() -> None:
    source = (ROOT / "operator" / "aos_operator" / "backends" / "detect.py").read_text(encoding="utf-8")
    paths = re.findall(r'_Probe\(\s*"\w+",\s*"([^"]+)"', source)
    told = re.findall(r"`(/[^`]+)`", PAGE.split("in this order", 1)[1].split("Then it lets", 1)[0])
    assert paths[-1] == told.pop() == "/v1/models"
    assert told == [path for path in paths if path != "/v1/models"]
    assert len(told) > 5
