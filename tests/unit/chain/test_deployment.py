"""The deployment file: what is written is read, and whatever is wrong with one is named."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from aos_chain.deployment import Deployment, read_deployment, write_deployment
from aos_chain.errors import ChainError

DEPLOYMENT = Deployment(
    chain_id=8453,
    registry="0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    sortition="0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    anchor="0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    challenge="0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    block=123_456,
)


def test_a_file_that_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deployment.json"
    write_deployment(path, DEPLOYMENT)
    assert read_deployment(path) == DEPLOYMENT
    assert [file.name for file in tmp_path.iterdir()] == ["deployment.json"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deployment.json"
    write_deployment(path, DEPLOYMENT)
    write_deployment(path, replace(DEPLOYMENT, block=7))
    assert read_deployment(path).block == 7


def test_the_text_is_json_that_others_read() -> None:
    assert json.loads(DEPLOYMENT.to_json()) == asdict(DEPLOYMENT)
    assert Deployment.from_json(DEPLOYMENT.to_json()) == DEPLOYMENT


def test_the_domain_is_the_networks() -> None:
    assert (DEPLOYMENT.domain.chain_id, DEPLOYMENT.domain.registry) == (8453, DEPLOYMENT.registry)


def test_addresses_get_their_checksum() -> None:
    lower = replace(DEPLOYMENT, anchor=DEPLOYMENT.anchor.lower())
    assert lower == DEPLOYMENT


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chain_id": -1}, "chain_id of a deployment must be a whole number, not -1"),
        ({"chain_id": "1"}, "chain_id of a deployment must be a whole number, not '1'"),
        ({"block": 1.5}, "block of a deployment must be a whole number"),
        ({"block": True}, "block of a deployment must be a whole number"),
        ({"registry": "0x12"}, "registry of a deployment: '0x12' is no address"),
        ({"sortition": None}, "sortition of a deployment: None is no address"),
        (
            {"anchor": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"},
            "anchor of a deployment: .* wrong EIP-55 checksum",
        ),
        ({"challenge": 5}, "challenge of a deployment: 5 is no address"),
    ],
)
def test_a_field_that_cannot_be(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ChainError, match=says):
        Deployment.from_json(json.dumps(asdict(DEPLOYMENT) | change))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        json.dumps({**asdict(DEPLOYMENT), "owner": "me"}),
        json.dumps({name: value for name, value in asdict(DEPLOYMENT).items() if name != "anchor"}),
        "[" * 5_000 + "]" * 5_000,
    ],
)
def test_a_text_that_is_no_deployment(text: str) -> None:
    with pytest.raises(ChainError, match="`aos chain deploy` writes one"):
        Deployment.from_json(text)


def test_a_file_that_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    missing, wrong, binary = tmp_path / "none.json", tmp_path / "wrong.json", tmp_path / "binary.json"
    wrong.write_text("{}")
    binary.write_bytes(b"\xff\xfe")
    for path in (missing, wrong, binary, tmp_path):
        with pytest.raises(ChainError, match=str(path)):
            read_deployment(path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "deployment.json"
    with pytest.raises(ChainError, match=f"{path} cannot be written"):
        write_deployment(path, DEPLOYMENT)
