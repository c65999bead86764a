"""The exceptions of the enclave worker, as branches of the worker's own tree; a docstring is its class's default message.

What derives from `StartupError` ends the command, what derives from `RequestError` is rendered by the worker's one handler.
"""

from aos_inference.errors import RequestError, StartupError


class DeviceMissing(StartupError):
    """This machine has no hardware that attests as --enclave says; choose another kind, or start on such a machine."""


class SimulatorUnusable(StartupError):
    """The simulator's root cannot be used; remove its folder, and let it be made again."""


class DeviceFailed(RequestError):
    """The hardware gave no attestation; ask again, and see the worker's log if that goes on."""

    status = 503


class UnknownKeyset(RequestError):
    """This enclave has no such keyset: it was restarted, or the keyset has expired. Seal the prompt to its present one."""

    status = 422
