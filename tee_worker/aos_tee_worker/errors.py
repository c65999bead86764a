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


class Unattested(RequestError):
    """The hardware gave no attestation for this answer, so it is worth nothing; send the job to another enclave."""

    status = 500


class UnknownKeyset(RequestError):
    """This enclave has no such keyset: it was restarted, or the keyset has expired. Seal the prompt to its present one."""

    status = 422


class SealedWrongly(RequestError):
    """A box of the sealed prompt is for this enclave and does not open: it belongs to another model, other parameters or another reply key, or
    its reply key is unusable, or it holds something else than an object with prompt or messages. Seal the prompt again.
    """

    status = 422


class PromptUnusable(RequestError):
    """The sealed prompt cannot be given to this model: it is empty or malformed, or the model's chat template refuses its messages. What is wrong
    stays inside; try the like of it with a prompt that need not be sealed.
    """

    status = 422


class CollateralUnreadable(StartupError):
    """The collateral cannot be used; give the JSON object that a PCCS answers."""
