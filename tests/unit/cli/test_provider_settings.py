"""`provider.yaml`: Symmetry's keys and no others, and the key by which a dispatcher is believed."""

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from coincurve import PrivateKey
from typer.testing import CliRunner

from aos_cli import provider
from aos_cli.main import app
from aos_cli.provider_settings import ProviderSettings, ServerKey, default_file, memory_file, template
from aos_protocol.identity import Signer
from aos_service.errors import SettingsError
from aos_service.settings import load_settings

ROOT = Path(__file__).parents[3]
DISPATCHER = Signer(b"\x22" * 32)
OTHER = Signer(b"\x33" * 32)
SYMMETRY = {
    "apiHostname",
    "apiKey",
    "apiBasePath",
    "apiPort",
    "apiProtocol",
    "modelName",
    "name",
    "serverKey",
    "systemMessage",
    "userSecret",
}
"""The keys in Symmetry's document."""


@pytest.fixture
def content() -> dict[str, Any]:
    return {
        "apiHostname": "localhost",
        "apiKey": None,
        "apiBasePath": "/v1",
        "apiPort": 11434,
        "apiProtocol": "http",
        "modelName": "llama3:8b",
        "name": "provider",
        "serverKey": DISPATCHER.public_key.hex()[2:],
        "systemMessage": "Im a system message",
        "userSecret": "correct horse battery staple",
    }


def load(tmp_path: Path, content: dict[str, Any]) -> ProviderSettings:
    file = tmp_path / "provider.yaml"
    file.write_text(yaml.safe_dump(content))
    return load_settings(file, ProviderSettings)


def test_the_keys_are_symmetry_s_and_where_the_dispatcher_is() -> None:
    names = {field.alias or name for name, field in ProviderSettings.model_fields.items()}
    assert names == SYMMETRY | {"serverUrl"}


def test_a_file_as_symmetry_s_document_has_it(tmp_path: Path, content: dict[str, Any]) -> None:
    settings = load(tmp_path, content)
    assert settings.api_url == "http://localhost:11434/v1"
    assert settings.server_url == "ws://127.0.0.1:8000/ws"
    assert settings.api_key is None
    assert settings.pin.fits(DISPATCHER.address)


@pytest.mark.parametrize("key", sorted(SYMMETRY | {"serverUrl"}))
def test_a_misspelt_key_is_told_its_nearest(tmp_path: Path, content: dict[str, Any], key: str) -> None:
    content[key + "s"] = content.pop(key, "x")
    with pytest.raises(SettingsError, match=f"unknown key, did you mean {key}?"):
        load(tmp_path, content)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("apiHostname", "http://localhost", "without http://"),
        ("apiHostname", "localhost:11434", "without a port"),
        ("apiPort", 0, "greater than or equal to 1"),
        ("apiPort", 65_536, "less than or equal to 65535"),
        ("apiProtocol", "ftp", "'http' or 'https'"),
        ("apiBasePath", "v1", "a path such as /v1"),
        ("apiBasePath", "/v1?key=x", "a path such as /v1"),
        ("apiKey", 12345, "put it in quotes"),
        ("modelName", "", "at least 1 character"),
        ("name", "x" * 257, "at most 256"),
        ("serverUrl", "127.0.0.1:8000", "must be ws://host:port/ws"),
        ("serverKey", "4b4a", "64 hex digits"),
        ("serverKey", 0xAB, "put it in quotes"),
        ("serverKey", "f" * 64, "no point of secp256k1"),
        ("serverKey", "02" + "f" * 64, "no point of secp256k1"),
        ("userSecret", "short", "12 characters or more"),
        ("userSecret", "supersecretpasswordforrewardtracking", "stands in an example"),
        ("userSecret", "supersecretpasswordforuptimetracking", "stands in an example"),
        ("userSecret", "CHANGE_ME", "12 characters or more"),
        ("userSecret", "password1234", "those in examples"),
        ("userSecret", "aaaaaaaaaaaaaaaa", "repeats itself"),
    ],
)
def test_what_cannot_be_meant_is_said_at_its_line(
    tmp_path: Path, content: dict[str, Any], key: str, value: object, said: str
) -> None:
    content[key] = value
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, content)
    assert f": {key}: " in str(caught.value)
    assert said in str(caught.value)
    if key in {"apiKey", "userSecret"}:
        assert str(value) not in str(caught.value).replace(key, "")


@pytest.mark.parametrize("key", ["apiHostname", "apiPort", "modelName", "name", "serverKey", "userSecret"])
def test_what_nobody_could_guess_must_be_there(tmp_path: Path, content: dict[str, Any], key: str) -> None:
    del content[key]
    with pytest.raises(SettingsError, match=f"{key}: is required"):
        load(tmp_path, content)


def test_secrets_do_not_show(tmp_path: Path, content: dict[str, Any]) -> None:
    settings = load(tmp_path, {**content, "apiKey": "sk-0123456789"})
    assert settings.api_key is not None
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "sk-0123456789" not in shown
        assert "correct horse" not in shown


def test_a_secret_may_come_from_the_environment(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_KEY", "sk-0123456789")
    settings = load(tmp_path, {**content, "apiKey": "${MODEL_KEY}"})
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-0123456789"


def test_an_ipv6_address_stands_in_brackets(tmp_path: Path, content: dict[str, Any]) -> None:
    assert load(tmp_path, {**content, "apiHostname": "::1"}).origin == "http://[::1]:11434"


class TestServerKey:
    @pytest.mark.parametrize(
        "dispatcher", [DISPATCHER, OTHER, *(Signer(bytes([n]) * 32) for n in range(1, 9))]
    )
    def test_every_form_of_a_key_fits_its_address_and_no_other(self, dispatcher: Signer) -> None:
        key = dispatcher.public_key.hex()
        for text in (key, key[2:], key[2:].upper(), dispatcher.address, dispatcher.address.lower()):
            assert ServerKey(text).fits(dispatcher.address), text
            assert not ServerKey(text).fits(Signer(b"\x44" * 32).address)

    def test_an_x_coordinate_is_that_of_two_keys_and_a_point_that_of_one(self) -> None:
        key = PrivateKey(b"\x22" * 32)
        order = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
        negative = Signer((order - key.to_int()).to_bytes(32))
        assert ServerKey(DISPATCHER.public_key.hex()[2:]).fits(negative.address)
        assert not ServerKey(DISPATCHER.public_key.hex()).fits(negative.address)
        assert not ServerKey(DISPATCHER.address).fits(negative.address)

    def test_an_address_with_a_wrong_checksum_is_none(self) -> None:
        wrong = DISPATCHER.address[:-1] + DISPATCHER.address[-1].swapcase()
        text = wrong if wrong != DISPATCHER.address else DISPATCHER.address.swapcase()
        with pytest.raises(ValueError, match="64 hex digits"):
            ServerKey(text)


class TestPlaces:
    def test_they_follow_the_xdg_variables(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        assert default_file() == tmp_path / "config/aos/provider.yaml"
        assert memory_file("0xAB") == tmp_path / "data/aos/provider/0xAB/memory.sqlite"

    @pytest.mark.parametrize("given", [None, "", "relative/folder"])
    def test_or_else_lie_in_the_home_folder(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
            monkeypatch.delenv(variable, raising=False)
            if given is not None:
                monkeypatch.setenv(variable, given)
        assert default_file() == tmp_path / ".config/aos/provider.yaml"
        assert memory_file("0xAB") == tmp_path / ".local/share/aos/provider/0xAB/memory.sqlite"


class TestInit:
    def test_it_writes_a_file_that_only_its_owner_reads_and_that_works_once_filled_in(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        said = CliRunner().invoke(app, ["provider", "--init"])
        assert said.exit_code == 0, said.output
        file = tmp_path / "aos/provider.yaml"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        with pytest.raises(SettingsError) as caught:
            load_settings(file, ProviderSettings)
        assert str(caught.value).count("\n") == 0
        assert "serverKey" in str(caught.value)
        file.write_text(file.read_text().replace("SERVER_KEY", DISPATCHER.address))
        assert load_settings(file, ProviderSettings).system_message is None

    def test_each_file_is_another_identity_and_none_is_overwritten(self, tmp_path: Path) -> None:
        first, second = tmp_path / "one.yaml", tmp_path / "two.yaml"
        for file in (first, second):
            assert CliRunner().invoke(app, ["provider", "--init", "-c", str(file)]).exit_code == 0
        assert first.read_text() != second.read_text()
        before = first.read_text()
        again = CliRunner().invoke(app, ["provider", "--init", "-c", str(first)])
        assert again.exit_code == 1
        assert "is not overwritten" in again.output
        assert first.read_text() == before

    def test_the_documented_template_is_the_one_that_is_written(self) -> None:
        documented = (ROOT / "docs/template/provider.yaml").read_text()
        assert documented == template("CHANGE_ME")
        keys = set(yaml.safe_load(documented)) | {"systemMessage"}
        assert keys == SYMMETRY | {"serverUrl"}


def test_a_file_that_is_not_there_is_no_riddle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "configure_logs", lambda *_, **__: None)  # they would outlive this test
    monkeypatch.setattr(provider, "keep_memory_private", lambda: None)
    said = CliRunner().invoke(app, ["provider", "-c", str(tmp_path / "none.yaml")])
    assert said.exit_code == 1
    assert "aos provider --init" in said.output
