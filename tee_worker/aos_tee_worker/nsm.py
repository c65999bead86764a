"""The Nitro Secure Module: one ioctl that takes a request in CBOR and gives a response (Linux, include/uapi/linux/nsm.h).

Responses are a map whose one key names what was asked, or `{"Error": name}`. The module's own randomness is not asked for: the kernel's
driver for it feeds the pool that keys are drawn from.
"""

import ctypes
import fcntl
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cbor2

from aos_protocol.attestation.statement import Kind
from aos_tee_worker.device import Signed
from aos_tee_worker.errors import DeviceFailed, DeviceMissing

DEVICE: Final = Path("/dev/nsm")
IOCTL: Final = 0xC0200A00
"""_IOWR(0x0A, 0, struct of 32 bytes)."""
MOST_REQUEST: Final = 0x1000
MOST_RESPONSE: Final = 0x3000

_DIGEST: Final = "SHA384"

Ioctl = Callable[[int, int, ctypes.Structure], int]


class Iovec(ctypes.Structure):
    """Where a buffer lies and how long it is, both 64 bits wide."""

    _fields_ = (("address", ctypes.c_uint64), ("length", ctypes.c_uint64))


class Message(ctypes.Structure):
    """What the ioctl is given; the driver lowers the response's length to what it wrote, and truncates what does not fit."""

    _fields_ = (("request", Iovec), ("response", Iovec))


@dataclass(frozen=True)
class Description:
    """What the module says of itself; a register that is locked cannot be extended any more."""

    module_id: str
    version: str
    registers: int
    locked: Collection[int]


class NitroDevice:
    """Has the enclave's security module sign. `ioctl` is as `fcntl.ioctl`, which lets other threads run meanwhile."""

    kind: Final[Kind] = "nitro"

    def __init__(self, descriptor: int, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._descriptor, self._ioctl = descriptor, ioctl

    @classmethod
    def open(cls, path: Path = DEVICE) -> "NitroDevice":
        """Open the module for the life of this process, and check that it is one. Raises `DeviceMissing`."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceMissing(
                f"this is no Nitro enclave: {path} cannot be opened ({error.strerror}). Start inside one, as scripts/run_tee.sh does, "
                "or give --enclave simulated"
            ) from error
        device = cls(descriptor)
        try:
            device.describe()
        except DeviceFailed as error:
            os.close(descriptor)
            raise DeviceMissing(
                f"{path} is no Nitro security module that can be used here: {error}"
            ) from error
        return device

    def describe(self) -> Description:
        """Ask the module what it is. Raises `DeviceFailed` also when it does not measure with SHA-384."""
        said = self._asked("DescribeNSM", "DescribeNSM")
        try:
            numbers = (said["version_major"], said["version_minor"], said["version_patch"])
            description = Description(
                module_id=str(said["module_id"]),
                version=".".join(map(str, numbers)),
                registers=int(said["max_pcrs"]),
                locked=frozenset(map(int, said["locked_pcrs"])),
            )
            digest = said["digest"]
        except (KeyError, TypeError, ValueError) as error:
            raise DeviceFailed(
                "the security module describes itself in a form that is unknown here"
            ) from error
        if digest != _DIGEST:
            raise DeviceFailed(
                f"the security module measures with {str(digest)[:40]}, and policies with {_DIGEST}"
            )
        return description

    def attest(self, *, keyset: bytes, nonce: bytes, result_key: bytes) -> Signed:
        """Return a COSE_Sign1 over these and the registers, dated by the hypervisor's clock. Raises `DeviceFailed`."""
        fields = {"user_data": keyset, "nonce": nonce, "public_key": result_key}
        document = self._asked({"Attestation": fields}, "Attestation").get("document")
        if not isinstance(document, bytes):
            raise DeviceFailed("the security module answered without a document")
        return Signed(document, _issued_at(document))

    def _asked(self, request: object, name: str) -> dict[str, Any]:
        """Return what the response says under `name`."""
        response = _decoded(self._exchange(cbor2.dumps(request)), "the security module's response")
        if isinstance(response, dict) and "Error" in response:
            raise DeviceFailed(f"the security module refused {name}: {str(response['Error'])[:80]}")
        said = response.get(name) if isinstance(response, dict) else None
        if not isinstance(said, dict):
            raise DeviceFailed(f"the security module gave no answer to {name}")
        return said

    def _exchange(self, request: bytes) -> bytes:
        if len(request) > MOST_REQUEST:
            raise DeviceFailed(
                f"a request of {len(request)} bytes is longer than the module takes, {MOST_REQUEST}"
            )
        asked = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(MOST_RESPONSE)
        message = Message(
            Iovec(ctypes.addressof(asked), len(request)), Iovec(ctypes.addressof(answer), MOST_RESPONSE)
        )
        self._call(message)
        length: int = message.response.length
        if not 0 < length <= MOST_RESPONSE:
            raise DeviceFailed(
                f"the security module says that it wrote {length} bytes, of at most {MOST_RESPONSE}"
            )
        return answer.raw[:length]

    def _call(self, message: Message) -> None:
        while True:
            try:
                self._ioctl(self._descriptor, IOCTL, message)
            except InterruptedError:
                # A signal came; nothing was written, and Python retries reads and writes by itself, ioctls not.
                continue
            except OSError as error:
                raise DeviceFailed(
                    f"the security module cannot be asked: {error.strerror}; the enclave's console may say more"
                ) from error
            return


def _issued_at(document: bytes) -> int:
    """Read the time in a document, in Unix seconds."""
    parts = _decoded(document, "the security module's document")
    if isinstance(parts, list) and len(parts) == 4 and isinstance(parts[2], bytes):
        payload = _decoded(parts[2], "the document's payload")
        milliseconds = payload.get("timestamp") if isinstance(payload, dict) else None
        if type(milliseconds) is int and 0 < milliseconds < 2**53:
            return milliseconds // 1000
    raise DeviceFailed("the security module's document has no time in it")


def _decoded(encoded: bytes, what: str) -> object:
    try:
        value: object = cbor2.loads(encoded)
    except cbor2.CBORDecodeError as error:
        raise DeviceFailed(f"{what} is no CBOR: {error}") from error
    return value
