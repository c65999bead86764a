"""The pages on providers and registration say what the programs do."""

import json
import re
from pathlib import Path

import pytest

from aos_cli.provider_settings import ProviderSettings
from aos_cli.provider_steps import _SHOWN
from aos_operator.registration import MOST, MOST_ALIKE, Pace
from aos_operator.registration_messages import RegisterModel
from aos_operator.settings import Registration
from aos_operator.watch import _TOGETHER_S
from aos_protocol.fields import parse_message

DOCS = Path(__file__).parents[3] / "docs"
PROVIDER = (DOCS / "provider.md").read_text(encoding="utf-8")
REGISTRATION = (DOCS / "registration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [field.alias or key for key, field in ProviderSettings.model_fields.items()])
def test_every_key_is_in_the_table(name: str) -> None:
    rows = [line for line in PROVIDER.splitlines() if line.startswith("| `")]
    assert any(f"`{name}`" in row for row in rows)


def test_the_page_shows_every_step_in_order() -> None:
    shown = re.findall(r"^ℹ️ INFO: (.*)$", PROVIDER, re.MULTILINE)  # noqa: RUF001
    assert len(shown) == len(_SHOWN)
    for line, form in zip(shown, _SHOWN.values(), strict=True):
        assert line.startswith(form.partition("{")[0])


def test_the_page_says_how_an_identity_is_derived() -> None:
    rule = 'scrypt(userSecret, salt "AOS provider identity, version 1", N = 2^17, r = 8, p = 1, 48 bytes)'
    assert rule in PROVIDER


def test_the_numbers_of_registration_are_those_of_the_program() -> None:
    pace = Pace()
    for said in (
        f"At most {MOST_ALIKE} instances of a model, {MOST} models on a node",
        f"again after {pace.least:g} s, ever less often, up to every {pace.most:g} s",
        f"changes within {_TOGETHER_S:g} s are one",
        f"`registration: {{port: {Registration().port}}}`",
    ):
        assert said in REGISTRATION
    assert (pace.patience, "not answered for ten minutes" in REGISTRATION) == (600, True)


def test_the_example_is_a_registration() -> None:
    body = re.search(r"model/register -d '(.*?)'", REGISTRATION, re.DOTALL)
    assert body is not None
    assert parse_message(RegisterModel, json.loads(body[1])).kind == 0
