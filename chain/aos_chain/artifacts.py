"""The compiled contracts: ABI and bytecode as `scripts/compile_contracts.sh` wrote them, beside this module."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

CONTRACTS: Final = ("OperatorRegistry", "Sortition", "Anchor", "Challenge")


@dataclass(frozen=True)
class Artifact:
    """A contract that can be deployed or called; `bytecode` is what creates it, in hex with 0x."""

    name: str
    abi: list[dict[str, Any]]
    bytecode: str


@cache
def artifact(name: str) -> Artifact:
    """Return a compiled contract by its name, one of `CONTRACTS`."""
    document = json.loads(files("aos_chain").joinpath("compiled", f"{name}.json").read_text("utf-8"))
    return Artifact(name, document["abi"], document["bytecode"])
