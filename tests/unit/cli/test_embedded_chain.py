"""Where anvil comes from, and what is said where it cannot be had; that it runs is tests/integration/embedded's to show."""

from pathlib import Path
from typing import Any

import pytest

from aos_cli import embedded_chain
from aos_cli.embedded_chain import EmbeddedChain, anvil_program
from aos_cli.errors import EmbeddedError


def script(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, on_path: str | None = None
) -> None:
    file = folder / "anvil.sh"
    if text is not None:
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    monkeypatch.setattr(embedded_chain, "SCRIPT", file)
    monkeypatch.setattr(embedded_chain.shutil, "which", {"anvil": on_path}.get)


async def test_the_checkout_s_script_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "echo /somewhere/anvil", "/usr/bin/anvil")
    assert await anvil_program() == "/somewhere/anvil"


async def test_without_a_checkout_it_is_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, None, "/usr/bin/anvil")
    assert await anvil_program() == "/usr/bin/anvil"


async def test_where_npm_is_missing_the_path_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, monkeypatch, "exit 1", "/usr/bin/anvil")
    assert await anvil_program() == "/usr/bin/anvil"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            None,
            r"anvil, the local test chain, is not on PATH: npm install --global @foundry-rs/anvil .* works without it",
        ),
        (
            "echo 'anvil: npm is missing, which installs anvil' >&2; exit 1",
            r"^anvil: npm is missing, which installs anvil$",
        ),
        ("exit 1", r"anvil.sh failed$"),
    ],
)
async def test_where_it_cannot_be_had_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str
) -> None:
    script(tmp_path, monkeypatch, text)
    with pytest.raises(EmbeddedError, match=said):
        await anvil_program()


async def test_a_refusal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def __init__(self, **_options: Any) -> None:
            return

        async def __aenter__(self) -> "Client":
            return self

        async def __aexit__(self, *_error: object) -> None:
            return None

        async def post(self, _url: str, json: Any) -> Any:
            assert json["method"] == "eth_getBalance"
            return type("Answer", (), {"json": lambda _self: {"error": {"message": "no such method"}}})()

    monkeypatch.setattr(embedded_chain.httpx, "AsyncClient", Client)
    chain = EmbeddedChain(tmp_path / "chain", tmp_path / "anvil.log")
    chain._port = 8545
    with pytest.raises(EmbeddedError, match="anvil refuses eth_getBalance: no such method"):
        await chain.fund("0x" + "1" * 40, 1)
