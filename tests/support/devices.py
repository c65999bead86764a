"""Hardware that signs nothing, for tests of what stands around it."""

from aos_protocol.attestation.statement import Kind
from aos_tee_worker.device import Signed
from aos_tee_worker.errors import DeviceFailed

MADE_AT = 1_900_000_007
COLLATERAL = {"tcb_info": "..."}


class FakeDevice:
    """`device.Device` that writes down what it is asked to sign; `failure` is raised once set."""

    kind: Kind = "tdx"

    def __init__(self) -> None:
        self.asked: list[dict[str, bytes]] = []
        self.failure: DeviceFailed | None = None

    def attest(self, **asked: bytes) -> Signed:
        if self.failure:
            raise self.failure
        self.asked.append(asked)
        return Signed(b"quote", MADE_AT, COLLATERAL)
