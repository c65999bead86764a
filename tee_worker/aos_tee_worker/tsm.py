"""Intel TDX through Linux's configfs-tsm (Documentation/ABI/testing/configfs-tsm-report): make an entry, write 64 bytes, read the quote.

An entry is removed when its quote was read, so that several threads, and processes, never share one.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from aos_protocol.attestation.statement import Kind
from aos_tee_worker.device import Signed
from aos_tee_worker.errors import DeviceFailed, DeviceMissing

FOLDER: Final = Path("/sys/kernel/config/tsm/report")
_PROVIDER: Final = "tdx_guest"
_MOST_QUOTE: Final = 48 << 10
"""In base64, the longest document of an `Attestation`; quotes take 5 to 8 KiB."""

PathCall = Callable[[Path], object]


class TdxDevice:
    """Has the TDX module sign a quote. `collateral` is what a PCCS said of this platform, and goes along; `make` and `remove` are `os.mkdir` and `os.rmdir`.

    Raises `DeviceMissing` when this is no TDX guest, or its kernel has no configfs-tsm.
    """

    kind: Final[Kind] = "tdx"

    def __init__(
        self,
        collateral: dict[str, Any] | None,
        folder: Path = FOLDER,
        *,
        make: PathCall = os.mkdir,
        remove: PathCall = os.rmdir,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._collateral, self._folder, self._clock = collateral, folder, clock
        self._make, self._remove = make, remove
        try:
            with self._entry() as entry:
                _check_provider(entry)
        except (DeviceFailed, OSError) as error:
            raise DeviceMissing(
                f"this is no TDX guest that can be used: {error}. It takes Linux 6.7, its tdx_guest module, and a configfs that is "
                "mounted at /sys/kernel/config, where the worker may write"
            ) from error

    def attest(self, *, keyset: bytes, nonce: bytes, result_key: bytes) -> Signed:
        """Return a quote whose report data is the keyset's digest, then the nonce. Raises `DeviceFailed`.

        The result key is in the keyset, and 64 bytes have no room for it again.
        """
        del result_key
        try:
            quote = self._quote(keyset + nonce)
        except OSError as error:
            raise DeviceFailed(f"the kernel gave no TDX quote: {error.strerror}") from error
        return Signed(quote, int(self._clock()), self._collateral)

    def _quote(self, report_data: bytes) -> bytes:
        with self._entry() as entry:
            _check_provider(entry)
            before = _generation(entry)
            with (entry / "inblob").open("wb", buffering=0) as file:
                file.write(report_data)
            quote = (entry / "outblob").read_bytes()
            # The kernel counts what is written. It also drops an error of this write, which then has not counted.
            if _generation(entry) != before + 1:
                raise DeviceFailed("somebody else wrote to the entry, or the kernel took no report data")
        if not 0 < len(quote) <= _MOST_QUOTE:
            raise DeviceFailed(
                f"the kernel gave a quote of {len(quote)} bytes, and an attestation takes 1 to {_MOST_QUOTE}"
            )
        return quote

    @contextmanager
    def _entry(self) -> Iterator[Path]:
        path = self._folder / f"aos-{os.getpid()}-{secrets.token_hex(4)}"
        self._make(path)
        try:
            yield path
        finally:
            self._remove(path)


def _check_provider(entry: Path) -> None:
    provider = (entry / "provider").read_text().strip()
    if provider != _PROVIDER:
        raise DeviceFailed(f"the kernel's reports are from {provider[:40]!r}, not {_PROVIDER}")


def _generation(entry: Path) -> int:
    text = (entry / "generation").read_text().strip()
    if not text.isdecimal():
        raise DeviceFailed(f"the kernel counts its reports in a form unknown here: {text[:40]!r}")
    return int(text)
