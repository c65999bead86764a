"""Jobs whose prompt an enclave alone can read."""

from typing import Any, Final

from aos_protocol.messages import Dispatch
from aos_protocol.sealing import SealingKey, seal_prompt
from support.enclave_workers import SimulatedEnclave
from unit.operator.world import OPERATOR, World

REPLY: Final = SealingKey()
"""The project's key, which answers are sealed to."""

SECRET: Final = "open sesame"


def private_job(
    world: World, enclave: SimulatedEnclave, operator: str = OPERATOR.address, **changes: Any
) -> Dispatch:
    """A job that this enclave, behind this operator, can read, and nobody else."""
    spec = world.job().job
    reader = (operator, enclave.keyring.current().keyset)
    sealed = seal_prompt({"prompt": SECRET}, (spec.model, spec.params), REPLY.public, [reader])
    return world.job(kind="tee", sealed=sealed, **changes)
