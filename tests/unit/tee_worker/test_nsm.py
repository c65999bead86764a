"""The Nitro security module, over a fake at the ioctl that reads and writes through the pointers, as the kernel's driver does."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation import nitro
from aos_protocol.attestation.policy import NITRO_ROOT_G1
from aos_tee_worker import nsm
from aos_tee_worker.device import Signed
from aos_tee_worker.errors import DeviceFailed, DeviceMissing
from aos_tee_worker.nsm import NitroDevice

FIELDS = {"user_data": b"\x01" * 32, "nonce": b"\x02" * 32, "public_key": b"\x03" * 33}
DESCRIBED = {
    "version_major": 1,
    "version_minor": 0,
    "version_patch": 2,
    "module_id": "i-0123-enc4567",
    "max_pcrs": 32,
    "locked_pcrs": list(range(16)),
    "digest": "SHA384",
}
PAYLOAD = cbor2.dumps({"module_id": "i-0123-enc4567", "timestamp": 1_700_000_000_999})
DOCUMENT = cbor2.dumps([b"\xa1\x01\x38\x22", {}, PAYLOAD, bytes(96)])


class FakeModule:
    """Answers what `answers` has, each once, last for ever; an OSError is raised, bytes and other values are written as (CBOR) responses.

    `said_length` replaces the length that it reports.
    """

    def __init__(self, *answers: object, said_length: int | None = None) -> None:
        self.answers = list(answers)
        self.said_length = said_length
        self.requests: list[object] = []
        self.descriptors: list[int] = []

    def __call__(self, descriptor: int, request: int, message: ctypes.Structure) -> int:
        assert request == 0xC0200A00
        assert ctypes.sizeof(message) == (request >> 16) & 0x3FFF == 32
        self.descriptors.append(descriptor)
        asked, answer = (ctypes.c_uint64 * 4).from_buffer(message)[:2], message.response
        self.requests.append(cbor2.loads(ctypes.string_at(*asked)))
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, OSError):
            raise found
        encoded = found if isinstance(found, bytes) else cbor2.dumps(found)
        # The driver truncates what does not fit.
        written = encoded[: answer.length]
        ctypes.memmove(answer.address, written, len(written))
        answer.length = len(written) if self.said_length is None else self.said_length
        return 0


def device(*answers: object, said_length: int | None = None) -> NitroDevice:
    return NitroDevice(7, FakeModule(*answers, said_length=said_length))


def attest(on: NitroDevice) -> Signed:
    return on.attest(keyset=FIELDS["user_data"], nonce=FIELDS["nonce"], result_key=FIELDS["public_key"])


class TestAttest:
    def test_it_asks_for_the_three_fields_and_returns_the_document(self) -> None:
        module = FakeModule({"Attestation": {"document": DOCUMENT}})
        signed = attest(NitroDevice(7, module))
        assert module.requests == [{"Attestation": FIELDS}]
        assert module.descriptors == [7]
        assert signed == Signed(DOCUMENT, 1_700_000_000, None)

    def test_what_real_hardware_made_comes_through_whole(self, vectors: Path) -> None:
        document = (vectors / "nitro" / "dstack_prod_20251225.bin").read_bytes()
        signed = attest(device({"Attestation": {"document": document}}))
        assert signed.document == document
        said = nitro.verify(document, roots=[NITRO_ROOT_G1], at=signed.issued_at)
        assert said.timestamp_ms // 1000 == signed.issued_at

    def test_a_signal_meanwhile_is_no_failure(self) -> None:
        module = FakeModule(
            InterruptedError(errno.EINTR, "Interrupted"),
            InterruptedError(errno.EINTR, "Interrupted"),
            {"Attestation": {"document": DOCUMENT}},
        )
        assert attest(NitroDevice(7, module)).document == DOCUMENT
        assert len(module.requests) == 3

    @pytest.mark.parametrize("name", ["InvalidArgument", "InputTooLarge", "InternalError", "x" * 5000])
    def test_the_modules_refusal_is_named(self, name: str) -> None:
        with pytest.raises(DeviceFailed, match="refused Attestation: ") as caught:
            attest(device({"Error": name}))
        assert name[:80] in str(caught.value)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("code", [errno.EMSGSIZE, errno.EACCES, errno.ENOTTY, errno.EIO, errno.EBADF])
    def test_the_kernels_refusal_is_named(self, code: int) -> None:
        with pytest.raises(DeviceFailed, match=os.strerror(code)) as caught:
            attest(device(OSError(code, os.strerror(code))))
        assert caught.value.status == 503

    @pytest.mark.parametrize("length", [0, 0x3001, 2**63, 2**64 - 1])
    def test_a_length_that_cannot_be_is_refused(self, length: int) -> None:
        with pytest.raises(DeviceFailed, match=f"wrote {length} bytes"):
            attest(device({"Attestation": {"document": DOCUMENT}}, said_length=length))

    @pytest.mark.parametrize("length", [1, 2, len(DOCUMENT) // 2, len(DOCUMENT)])
    def test_a_response_that_was_cut_is_refused(self, length: int) -> None:
        with pytest.raises(DeviceFailed, match="response is no CBOR"):
            attest(device({"Attestation": {"document": DOCUMENT}}, said_length=length))

    def test_a_response_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(DeviceFailed, match="response is no CBOR"):
            attest(device({"Attestation": {"document": bytes(0x3000)}}))

    def test_the_largest_response_comes_through(self) -> None:
        payload = cbor2.dumps({"timestamp": 5_000, "padding": bytes(0x2F00)})
        document = cbor2.dumps([b"", {}, payload, bytes(96)])
        room = 0x3000 - len(cbor2.dumps({"Attestation": {"document": document}}))
        payload = cbor2.dumps({"timestamp": 5_000, "padding": bytes(0x2F00 + room)})
        document = cbor2.dumps([b"", {}, payload, bytes(96)])
        assert len(cbor2.dumps({"Attestation": {"document": document}})) == 0x3000
        assert attest(device({"Attestation": {"document": document}})) == Signed(document, 5, None)

    def test_a_request_that_is_too_long_is_not_sent(self) -> None:
        module = FakeModule({})
        with pytest.raises(DeviceFailed, match="longer than the module takes"):
            NitroDevice(7, module).attest(keyset=bytes(0x1000), nonce=b"", result_key=b"")
        assert module.requests == []

    @pytest.mark.parametrize(
        "answer",
        [
            {"GetRandom": {"random": b"1234"}},
            {"Attestation": "yes"},
            {},
            [],
            "Attestation",
            b"\xf6",
            {"Attestation": None, "other": 1},
        ],
        ids=repr,
    )
    def test_an_answer_to_another_question_is_refused(self, answer: object) -> None:
        with pytest.raises(DeviceFailed, match="no answer to Attestation"):
            attest(device(answer))

    @pytest.mark.parametrize("document", [None, "text", 1, [DOCUMENT]])
    def test_an_answer_without_document_is_refused(self, document: object) -> None:
        with pytest.raises(DeviceFailed, match="without a document"):
            attest(device({"Attestation": {"document": document}}))

    @pytest.mark.parametrize(
        "payload",
        [
            {},
            {"timestamp": 0},
            {"timestamp": -5},
            {"timestamp": "now"},
            {"timestamp": None},
            {"timestamp": True},
            {"timestamp": 2**53},
            [],
            5,
        ],
    )
    def test_a_document_without_time_is_refused(self, payload: object) -> None:
        document = cbor2.dumps([b"", {}, cbor2.dumps(payload), bytes(96)])
        with pytest.raises(DeviceFailed, match="no time in it"):
            attest(device({"Attestation": {"document": document}}))

    @pytest.mark.parametrize("parts", [[], [1, 2, 3], [b"", {}, {}, b""], {"a": 1}, None])
    def test_a_document_in_another_form_is_refused(self, parts: object) -> None:
        with pytest.raises(DeviceFailed, match="no time in it"):
            attest(device({"Attestation": {"document": cbor2.dumps(parts)}}))

    @given(st.binary(max_size=200))
    def test_no_response_raises_anything_else(self, response: bytes) -> None:
        with pytest.raises(DeviceFailed):
            attest(device(response))

    @given(st.binary(max_size=200))
    def test_no_document_raises_anything_else(self, document: bytes) -> None:
        with pytest.raises(DeviceFailed):
            attest(device({"Attestation": {"document": document}}))

    @given(st.data())
    def test_a_response_with_a_bit_turned_gives_a_document_or_the_modules_error(
        self, data: st.DataObject
    ) -> None:
        response = bytearray(cbor2.dumps({"Attestation": {"document": DOCUMENT}}))
        at = data.draw(st.integers(0, len(response) * 8 - 1))
        response[at // 8] ^= 1 << at % 8
        with suppress(DeviceFailed):
            assert 0 <= attest(device(bytes(response))).issued_at < 2**53


class TestDescribe:
    def test_it_says_what_it_is(self) -> None:
        module = FakeModule({"DescribeNSM": DESCRIBED})
        described = NitroDevice(7, module).describe()
        assert module.requests == ["DescribeNSM"]
        assert described == nsm.Description("i-0123-enc4567", "1.0.2", 32, frozenset(range(16)))

    @pytest.mark.parametrize("field", DESCRIBED)
    def test_a_description_that_lacks_something_is_refused(self, field: str) -> None:
        said = {name: value for name, value in DESCRIBED.items() if name != field}
        with pytest.raises(DeviceFailed, match="in a form that is unknown here"):
            device({"DescribeNSM": said}).describe()

    @pytest.mark.parametrize(
        "change", [{"max_pcrs": "many"}, {"locked_pcrs": 5}, {"locked_pcrs": ["x"]}, {"max_pcrs": None}]
    )
    def test_a_description_of_other_types_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(DeviceFailed, match="in a form that is unknown here"):
            device({"DescribeNSM": DESCRIBED | change}).describe()

    @pytest.mark.parametrize("digest", ["SHA256", "SHA512", None, 384])
    def test_another_digest_is_refused(self, digest: object) -> None:
        with pytest.raises(DeviceFailed, match="measures with"):
            device({"DescribeNSM": DESCRIBED | {"digest": digest}}).describe()


class TestOpen:
    def test_a_machine_without_the_module_is_told_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(DeviceMissing, match=r"no Nitro enclave.*No such file.*--enclave simulated"):
            NitroDevice.open(tmp_path / "nsm")

    def test_a_file_that_is_no_module_is_refused_and_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "nsm").write_bytes(b"")
        closed: list[int] = []
        close = os.close
        monkeypatch.setattr(os, "close", lambda descriptor: (closed.append(descriptor), close(descriptor)))
        with pytest.raises(DeviceMissing, match="Inappropriate ioctl"):
            NitroDevice.open(tmp_path / "nsm")
        assert len(closed) == 1

    def test_a_module_is_described_before_it_is_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "nsm").write_bytes(b"")
        module = FakeModule({"DescribeNSM": DESCRIBED}, {"Attestation": {"document": DOCUMENT}})
        _answering(monkeypatch, module)
        opened = NitroDevice.open(tmp_path / "nsm")
        assert attest(opened).issued_at == 1_700_000_000
        assert module.requests == ["DescribeNSM", {"Attestation": FIELDS}]
        assert not os.get_inheritable(module.descriptors[0])
        os.close(module.descriptors[0])

    def test_a_module_with_another_digest_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "nsm").write_bytes(b"")
        _answering(monkeypatch, FakeModule({"DescribeNSM": DESCRIBED | {"digest": "SHA512"}}))
        with pytest.raises(DeviceMissing, match="measures with SHA512"):
            NitroDevice.open(tmp_path / "nsm")


def test_the_number_of_the_ioctl_is_that_of_its_definition() -> None:
    """_IOWR(0x0A, 0, struct nsm_raw): both directions, the size of the struct, magic number, number."""
    assert 3 << 30 | ctypes.sizeof(nsm.Message) << 16 | 0x0A << 8 == nsm.IOCTL


def test_pythons_own_ioctl_takes_the_message() -> None:
    """It is refused for the file, with the number and the struct taken as they are."""
    reading, writing = os.pipe()
    try:
        with pytest.raises(DeviceFailed, match="Inappropriate ioctl"):
            attest(NitroDevice(reading, fcntl.ioctl))
    finally:
        os.close(reading)
        os.close(writing)


def _answering(monkeypatch: pytest.MonkeyPatch, module: Callable[..., int]) -> None:
    """Put the fake behind `NitroDevice.open`, which takes the default."""
    monkeypatch.setattr(NitroDevice.__init__, "__defaults__", (module,))
