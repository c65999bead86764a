"""Settings of a chain, and what the dispatcher's commands make of one, before any is asked."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from aos_chain.registry import RegistryEntry, RegistryState
from aos_dispatcher.errors import DispatcherError, NotConfirmed, Refused
from aos_dispatcher.extras import chain_extra
from aos_dispatcher.main import app
from aos_dispatcher.operators import RegistrySnapshot, Shares, chain_place
from aos_dispatcher.settings import NO_REGISTRY, Chain
from aos_protocol.evidence_document import RegistryDocument
from aos_protocol.fields import describe, parse_message
from aos_protocol.typed_data import Domain

REGISTRY = "0x1563915e194D8CfBA1943570603F7606A3115508"
PLACE = {"chain_id": 31337, "registry": REGISTRY, "rpc_url": "https://user:hidden@h:8545/v2/hidden"}


class TestSettings:
    def test_without_a_chain_the_domain_is_zero(self) -> None:
        chain = Chain()
        assert chain.domain() == Domain(0, NO_REGISTRY)
        assert (chain.rpc_url, chain.anchor) == (None, None)

    def test_a_domain_by_hand_needs_no_endpoint(self) -> None:
        chain = Chain(chain_id=5, registry=REGISTRY.lower())
        assert chain.domain() == Domain(5, REGISTRY)

    def test_the_defaults_are_those_that_are_told(self) -> None:
        chain = Chain.model_validate(PLACE)
        waits = (chain.poll_interval, chain.maximum_age, chain.anchor_interval)
        assert (chain.confirmations, *waits) == (2, 2, 300, 60)
        assert "hidden" not in repr(chain)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"chain_id": 0}, "needs chain_id and registry"),
            ({"registry": NO_REGISTRY}, "needs chain_id and registry"),
            ({"rpc_url": "ws://h:1"}, "must be http://host:port"),
            ({"registry": "0x12"}, "is no address"),
            ({"anchor": "nobody"}, "is no address"),
            ({"confirmations": -1}, "greater than or equal to 0"),
            ({"poll_interval": 0}, "greater than 0"),
            ({"maximum_age": 0}, "greater than 0"),
            ({"anchor_interval": -1}, "greater than or equal to 0"),
            ({"rpc": "x"}, "rpc"),
        ],
    )
    def test_what_cannot_be_is_refused(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(ValidationError) as caught:
            Chain.model_validate(PLACE | changes)
        assert said in describe(caught.value)
        assert "hidden" not in describe(caught.value)


def test_evidence_has_the_contracts_state_as_it_is() -> None:
    entries = (RegistryEntry(REGISTRY, 2, 10, 20), RegistryEntry("0x" + "00" * 19 + "07", 9, 0, 10))
    state = RegistryState(31337, REGISTRY, 12, "0x" + "ab" * 32, entries)
    snapshot = RegistrySnapshot(Shares.of(entries), chain_place(state), frozenset())
    read = parse_message(RegistryDocument, snapshot.document)
    assert read.chain is not None
    assert (read.chain.block, read.chain.block_hash, read.chain.registry) == (12, "ab" * 32, REGISTRY)
    assert [(entry.number, entry.start, entry.end) for entry in read.operators] == [(2, 10, 20), (9, 0, 10)]

    assert (snapshot.block, snapshot.range_of(REGISTRY)) == (12, (10, 20))
    nobody = "0x" + "00" * 19 + "08"
    assert (snapshot.has(REGISTRY), snapshot.has(nobody), snapshot.range_of(nobody)) == (True, False, (0, 0))


def test_who_is_not_confirmed_yet_should_come_again() -> None:
    error = NotConfirmed("in a moment")
    assert isinstance(error, Refused)
    assert (error.code, str(error)) == (503, "in a moment")


class TestCommands:
    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        file = tmp_path / "config.yaml"
        settings = {"database": {"url": "postgres://h/x"}, "identity": {}, "chain": PLACE}
        file.write_text(yaml.safe_dump(settings))
        return file

    def test_nobody_is_added_to_a_contracts_registry_by_hand(self, config: Path) -> None:
        ran = CliRunner().invoke(app, ["operator", "add", REGISTRY, "-c", str(config)])
        assert ran.exit_code == 1
        assert "operators register themselves there, with: aos chain register" in ran.stderr

    def test_a_missing_extra_is_named(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "aos_dispatcher.chain_registry", None)
        ran = CliRunner().invoke(app, ["operator", "list", "-c", str(config)])
        assert ran.exit_code == 1
        assert "install aos with the extra `chain`" in ran.stderr

    def test_another_failure_is_no_missing_extra(self) -> None:
        with pytest.raises(KeyError), chain_extra():
            raise KeyError
        with pytest.raises(DispatcherError, match="web3, which is not installed"), chain_extra():
            raise ModuleNotFoundError(name="web3")
