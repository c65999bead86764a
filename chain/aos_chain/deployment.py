"""Where the contracts of a network are: a small JSON file that everybody who uses the network has."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from aos_chain.errors import ChainError
from aos_protocol.errors import InvalidAddress
from aos_protocol.identity import checksum_address
from aos_protocol.typed_data import Domain


@dataclass(frozen=True)
class Deployment:
    """A network's chain id (EIP-155), its contracts' EIP-55 addresses, and the block that the registry was deployed in.

    Raises `ChainError` for a field that cannot be.
    """

    chain_id: int
    registry: str
    sortition: str
    anchor: str
    challenge: str
    block: int

    def __post_init__(self) -> None:
        for name in ("chain_id", "block"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < 2**256:
                raise ChainError(f"{name} of a deployment must be a whole number, not {value!r:.40}")
        for name in ("registry", "sortition", "anchor", "challenge"):
            try:
                object.__setattr__(self, name, checksum_address(getattr(self, name)))
            except InvalidAddress as error:
                raise ChainError(f"{name} of a deployment: {error}") from error

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of this network's signatures."""
        return Domain(self.chain_id, self.registry)

    def to_json(self) -> str:
        """Return the text of a deployment file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Deployment":
        """Read a deployment file's text. Raises `ChainError` that names what is wrong."""
        try:
            document: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ChainError("a deployment is a JSON object; `aos chain deploy` writes one") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or set(document) != names:
            raise ChainError(
                f"a deployment is a JSON object of {', '.join(sorted(names))}; `aos chain deploy` writes one"
            )
        return cls(**document)


def read_deployment(path: Path) -> Deployment:
    """Read a deployment file. Raises `ChainError` that names the file."""
    try:
        return Deployment.from_json(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ChainError(
            f"{path} cannot be read ({error}): `aos chain deploy` writes a deployment file"
        ) from error
    except ChainError as error:
        raise ChainError(f"{path}: {error}") from error


def write_deployment(path: Path, deployment: Deployment) -> None:
    """Write a deployment file, whole or not at all. Raises `ChainError`."""
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        part.write_text(deployment.to_json(), "utf-8")
        part.replace(path)
    except OSError as error:
        raise ChainError(
            f"{path} cannot be written ({error}): name a file in a folder that you may write"
        ) from error
