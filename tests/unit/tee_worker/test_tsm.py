"""TDX through configfs-tsm, over a folder whose entries behave like the kernel's as far as files and pipes can."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from aos_tee_worker.device import Signed
from aos_tee_worker.errors import DeviceFailed, DeviceMissing
from aos_tee_worker.tsm import TdxDevice

KEYSET, NONCE, RESULT_KEY = b"\x01" * 32, b"\x02" * 32, b"\x03" * 33
NOW = 1_900_000_000


class FakeTsm:
    """configfs-tsm: `make` gives an entry its attributes, and a thread of the entry answers a write to `inblob` with a quote in `outblob`.

    Both are pipes, so that what is written, and when, is as with the kernel. `writes` is by how much a write raises the generation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.provider = "tdx_guest\n"
        self.generation: str = "0\n"
        self.writes = 1
        self.quote: Callable[[bytes], bytes] = lambda report_data: b"quote of " + report_data
        self.made: list[Path] = []
        self.report_data: list[bytes] = []
        self.refusal: OSError | None = None
        self._threads: list[tuple[threading.Thread, Path]] = []

    def make(self, path: Path) -> None:
        if self.refusal:
            raise self.refusal
        path.mkdir()
        self.made.append(path)
        (path / "provider").write_text(self.provider)
        (path / "generation").write_text(self.generation)
        for name in ("inblob", "outblob"):
            os.mkfifo(path / name)
        thread = threading.Thread(target=self._answer, args=(path,), daemon=True)
        thread.start()
        self._threads.append((thread, path))

    def remove(self, path: Path) -> None:
        thread = next(thread for thread, entry in self._threads if entry == path)
        # An entry that nobody wrote to: let the thread go.
        for name, flags in (("inblob", os.O_WRONLY), ("outblob", os.O_RDONLY)):
            while thread.is_alive():
                try:
                    os.close(os.open(path / name, flags | os.O_NONBLOCK))
                    break
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    thread.join(0.001)
        thread.join(5)
        shutil.rmtree(path)

    def _answer(self, path: Path) -> None:
        report_data = (path / "inblob").read_bytes()
        if not report_data:
            return
        self.report_data.append(report_data)
        if self.generation.strip().isdecimal():
            (path / "generation").write_text(f"{int(self.generation) + self.writes}\n")
        try:
            (path / "outblob").write_bytes(self.quote(report_data))
        except BrokenPipeError:
            return

    def device(self, collateral: dict[str, object] | None = None) -> TdxDevice:
        return TdxDevice(collateral, self.folder, make=self.make, remove=self.remove, clock=lambda: NOW + 0.9)


@pytest.fixture
def kernel(tmp_path: Path) -> FakeTsm:
    return FakeTsm(tmp_path)


def attest(device: TdxDevice) -> Signed:
    return device.attest(keyset=KEYSET, nonce=NONCE, result_key=RESULT_KEY)


class TestAttest:
    def test_the_report_data_is_keyset_then_nonce(self, kernel: FakeTsm) -> None:
        signed = attest(kernel.device({"tcb_info": "..."}))
        assert kernel.report_data == [KEYSET + NONCE]
        assert signed == Signed(b"quote of " + KEYSET + NONCE, NOW, {"tcb_info": "..."})

    def test_a_quote_may_be_longer_than_a_page(self, kernel: FakeTsm) -> None:
        kernel.quote = lambda _: bytes(range(256)) * 128
        assert attest(kernel.device()).document == bytes(range(256)) * 128

    def test_each_has_an_entry_of_its_own_that_is_removed(self, kernel: FakeTsm) -> None:
        device = kernel.device()
        attest(device)
        attest(device)
        assert len(set(kernel.made)) == 3
        assert all(path.parent == kernel.folder and str(os.getpid()) in path.name for path in kernel.made)
        assert list(kernel.folder.iterdir()) == []

    @pytest.mark.parametrize("writes", [0, 2, 7])
    def test_a_generation_that_is_not_one_more_is_refused(self, kernel: FakeTsm, writes: int) -> None:
        """0: the kernel dropped the write, and the quote is of something else. More: somebody wrote beside us."""
        device = kernel.device()
        kernel.writes = writes
        with pytest.raises(DeviceFailed, match="somebody else wrote"):
            attest(device)
        assert list(kernel.folder.iterdir()) == []

    def test_a_generation_counts_on_from_wherever_it_is(self, kernel: FakeTsm) -> None:
        kernel.generation = "41\n"
        assert attest(kernel.device()).document

    @pytest.mark.parametrize("generation", ["", "many\n", "-1\n", "0x2\n"])
    def test_a_generation_in_another_form_is_refused(self, kernel: FakeTsm, generation: str) -> None:
        device = kernel.device()
        kernel.generation = generation
        with pytest.raises(DeviceFailed, match="counts its reports"):
            attest(device)
        assert list(kernel.folder.iterdir()) == []

    @pytest.mark.parametrize("length", [0, 49_153, 200_000])
    def test_a_quote_of_no_or_too_great_length_is_refused(self, kernel: FakeTsm, length: int) -> None:
        device = kernel.device()
        kernel.quote = lambda _: bytes(length)
        with pytest.raises(DeviceFailed, match=f"quote of {length} bytes"):
            attest(device)

    def test_a_provider_that_has_changed_is_refused(self, kernel: FakeTsm) -> None:
        device = kernel.device()
        kernel.provider = "sev_guest\n"
        with pytest.raises(DeviceFailed, match="'sev_guest', not tdx_guest"):
            attest(device)
        assert kernel.report_data == []
        assert list(kernel.folder.iterdir()) == []

    @pytest.mark.parametrize("code", [errno.EBUSY, errno.EINTR, errno.EIO, errno.ENXIO])
    def test_what_the_kernel_refuses_is_named(self, kernel: FakeTsm, code: int) -> None:
        device = kernel.device()
        kernel.refusal = OSError(code, os.strerror(code))
        with pytest.raises(DeviceFailed, match=os.strerror(code)) as caught:
            attest(device)
        assert caught.value.status == 503


class TestStart:
    def test_a_tdx_guest_is_tried_without_a_quote(self, kernel: FakeTsm) -> None:
        assert kernel.device().kind == "tdx"
        assert kernel.report_data == []
        assert list(kernel.folder.iterdir()) == []

    def test_a_kernel_without_configfs_tsm_is_told_what_it_takes(self, tmp_path: Path) -> None:
        with pytest.raises(DeviceMissing, match=r"no TDX guest.*No such file.*Linux 6\.7"):
            TdxDevice(None, tmp_path / "tsm" / "report")

    def test_a_guest_of_another_kind_is_refused(self, kernel: FakeTsm) -> None:
        kernel.provider = "sev_guest\n"
        with pytest.raises(DeviceMissing, match="from 'sev_guest', not tdx_guest"):
            kernel.device()
        assert list(kernel.folder.iterdir()) == []

    def test_a_folder_that_may_not_be_written_is_named(self, kernel: FakeTsm) -> None:
        kernel.refusal = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with pytest.raises(DeviceMissing, match=r"Permission denied.*may write"):
            kernel.device()
