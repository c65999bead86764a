"""Proofs for the Sortition contract, the published ones and such that only an adversary writes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from coincurve import PublicKey
from web3.contract import Contract

from aos_chain.hints import FIELD, Hints, coordinates, hints
from aos_protocol import vrf
from aos_protocol.curves import SECP256K1
from aos_protocol.errors import InvalidProof
from aos_protocol.identity import Signer
from support.evm import Evm

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "vrf"
MAX_ALPHA = 256

Answer = tuple[bool, bytes]
REFUSED: Answer = (False, bytes(32))


@dataclass(frozen=True)
class Case:
    """A proof that somebody shows; `key` is compressed."""

    key: bytes
    alpha: bytes
    proof: bytes

    @property
    def hints(self) -> Hints:
        return hints(self.key, self.alpha, self.proof)

    def call(self, sortition: Contract, told: Hints | None = None) -> Any:
        """The contract's call with the right hints, or with these."""
        given = (told or self.hints).abi()
        return sortition.functions.verify(coordinates(self.key), self.alpha, self.proof, given)

    def ask(self, sortition: Contract, told: Hints | None = None) -> Answer:
        valid, output = self.call(sortition, told).call()
        return valid, output

    def expected(self) -> Answer:
        """What the contract has to answer: what aos_protocol.vrf says."""
        try:
            return True, vrf.verify(self.key, self.alpha, self.proof)
        except InvalidProof:
            return REFUSED


def published(name: str, group: str) -> list[Any]:
    """The vectors of a file as test parameters, or one that is skipped where there is no such file."""
    path = VECTORS / name
    if not path.exists():
        return [pytest.param(None, None, marks=pytest.mark.skip(reason=f"no published vectors at {path}"))]
    return [
        pytest.param(case, beta, id=label)
        for label, case, beta in _cases(json.loads(path.read_text())[group])
    ]


def _cases(vectors: list[dict[str, Any]]) -> Iterator[tuple[str, Case, bytes]]:
    for index, vector in enumerate(vectors):
        label = vector.get("label") or vector.get("description") or str(index)
        case = Case(*(bytes.fromhex(vector[field]) for field in ("pk", "alpha", "pi")))
        yield label, case, bytes.fromhex(vector.get("beta", ""))


def good(signer: Signer, alpha: bytes) -> Case:
    """An honest proof."""
    return Case(signer.public_key, alpha, vrf.prove(signer, alpha))


def changed(case: Case, *, gamma: bytes | None = None, c: int | None = None, s: int | None = None) -> Case:
    """The same proof with other parts."""
    proof = case.proof
    parts = (
        proof[:33] if gamma is None else gamma,
        proof[33:49] if c is None else c.to_bytes(16, "big"),
        proof[49:] if s is None else s.to_bytes(32, "big"),
    )
    return Case(case.key, case.alpha, b"".join(parts))


def gamma_by(case: Case, factor: int) -> Case:
    """The same c and s with Gamma = factor * (s / c) * H: 1 makes V infinity, -1 makes it s * H doubled."""
    c, s_h = _c_and_s_h(case)
    return changed(case, gamma=_encoded(SECP256K1.multiply(factor * pow(c, -1, SECP256K1.order), s_h)))


def gamma_giving(case: Case, v: bytes) -> Case:
    """The same c and s with the Gamma that makes V this compressed point."""
    c, s_h = _c_and_s_h(case)
    c_gamma = SECP256K1.add(s_h, SECP256K1.multiply(-1, SECP256K1.decode(v)))
    return changed(case, gamma=_encoded(SECP256K1.multiply(pow(c, -1, SECP256K1.order), c_gamma)))


def _c_and_s_h(case: Case) -> tuple[int, PublicKey]:
    c, s = int.from_bytes(case.proof[33:49], "big"), int.from_bytes(case.proof[49:], "big")
    h = vrf.ECVRF_SECP256K1_SHA256_TAI.encode_to_curve(case.key, case.alpha)
    return c, SECP256K1.multiply(s, h)


def _encoded(point: PublicKey | None) -> bytes:
    assert point is not None
    return SECP256K1.encode(point)


def small_y() -> tuple[int, int]:
    """A point whose y is so small that y + FIELD, of the other parity, is still a number of 256 bits."""
    for y in range(1, 100):
        # FIELD = 7 mod 9, so this is a cube root of y^2 - 7 if there is one.
        x = pow(y * y - 7, (FIELD + 2) // 9, FIELD)
        if pow(x, 3, FIELD) == (y * y - 7) % FIELD:
            return x, y
    raise AssertionError


def small_x() -> tuple[int, int]:
    """A point whose x is so small that x + FIELD is still a number of 256 bits; y is even."""
    x = next(x for x in range(1, 100) if pow(x**3 + 7, (FIELD - 1) // 2, FIELD) == 1)
    return coordinates(compressed(2, x))


def compressed(prefix: int, x: int) -> bytes:
    return bytes((prefix,)) + x.to_bytes(32, "big")


def fixed_answer(evm: Evm, *words: int) -> str:
    """Deploy what answers every call with these words: a registry of one range, or something that is none."""
    answer = b"".join(word.to_bytes(32, "big") for word in words)
    creation = _returning(_returning(answer))
    sent = evm.web3.eth.send_transaction({"from": evm.accounts[0], "data": "0x" + creation.hex()})
    return str(evm.wait(sent)["contractAddress"])


def _returning(data: bytes) -> bytes:
    """Code that returns what stands behind its ten own bytes: CODECOPY to memory, RETURN."""
    return bytes.fromhex(f"60{len(data):02x}600a5f3960{len(data):02x}5ff3") + data
