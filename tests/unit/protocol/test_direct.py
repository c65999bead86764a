"""Direct prompts and answers: what opens, what does not, and what a client finds out before it believes anything."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aos_protocol.canonical import canonical, digest
from aos_protocol.direct import (
    AnswerOpener,
    AnswerSealer,
    Bond,
    Commitments,
    Ending,
    Prompt,
    Unpacker,
    check_acceptance,
    check_session,
    hidden_transcript,
    open_prompt,
    pack,
    seal_prompt,
    sign_session,
    unsigned_session,
)
from aos_protocol.errors import InvalidMessage, InvalidSignature, NotSealed
from aos_protocol.frames import seal_reply
from aos_protocol.identity import Signer
from aos_protocol.job import Direct, JobSpec, Params
from aos_protocol.messages import MAX_CHUNK_BOX, DirectChunk, ModelOffer, Session
from aos_protocol.record import Record
from aos_protocol.sealing import SealingKey, seal
from aos_protocol.typed_data import Domain

CLIENT = SealingKey(b"\x01" * 32)
OPERATOR_KEY = SealingKey(b"\x02" * 32)
DISPATCHER, OPERATOR = Signer(b"\x03" * 32), Signer(b"\x04" * 32)
DOMAIN = Domain(31337, "0x" + "00" * 19 + "01")
PROMPT = Prompt.fresh({"messages": [{"role": "user", "content": "What is the airspeed of a swallow?"}]})
JOB_ID = "ab" * 32
NOW = 1_900_000_000


def job(prompt: Prompt = PROMPT, **changes: Any) -> JobSpec:
    asked = Direct(client_key=CLIENT.public, commitment=prompt.commitment())
    return JobSpec(tag="opml", direct=asked, model="tiny.gguf", **changes)


BOND = Bond(JOB_ID, OPERATOR.address, job())
ENDING = Ending(salt="5a" * 32, record=Record(level="text", backend="test"))


def session(**changes: Any) -> Session:
    said: dict[str, Any] = {
        "job_id": JOB_ID,
        "dispatcher": DISPATCHER.address,
        "operator": OPERATOR.address,
        "model": ModelOffer(name="tiny.gguf", sha256="cd" * 32),
        "seed": "ef" * 32,
        "key": OPERATOR_KEY.public,
        "url": "http://127.0.0.1:7000",
        "expires_at": NOW + 60,
    }
    return sign_session(DISPATCHER, DOMAIN, unsigned_session(**(said | changes)))


def stream(*texts: str, ending: Ending = ENDING) -> list[DirectChunk]:
    sealer = AnswerSealer(BOND, PROMPT)
    return [chunk for text in texts for chunk in sealer.text(text)] + sealer.end(ending)


def opened(chunks: list[DirectChunk], *, prompt: Prompt = PROMPT, bond: Bond = BOND) -> tuple[str, Ending]:
    opener = AnswerOpener(bond, prompt, CLIENT)
    for chunk in chunks:
        opener.take(chunk)
    return opener.text, opener.ending()


class TestPrompt:
    def test_the_operator_reads_what_the_client_sealed(self) -> None:
        assert open_prompt(OPERATOR_KEY, seal_prompt(PROMPT, BOND, OPERATOR_KEY.public), BOND) == PROMPT

    def test_the_job_is_run_with_the_prompt_in_place(self) -> None:
        run = PROMPT.in_place(BOND.job)
        assert run.direct is None
        assert run.messages == PROMPT.messages
        assert (run.model, run.params) == (BOND.job.model, BOND.job.params)

    @pytest.mark.parametrize(
        "other",
        [
            replace(BOND, job_id="ac" * 32),
            replace(BOND, operator=DISPATCHER.address),
            replace(BOND, job=job(params=Params(temperature=0.5))),
            replace(BOND, job=BOND.job.model_copy(update={"model": "other.gguf"})),
            replace(BOND, job=job(Prompt.fresh({"prompt": "another"}))),
        ],
        ids=["job", "operator", "params", "model", "commitment"],
    )
    def test_a_box_opens_for_nothing_else(self, other: Bond) -> None:
        with pytest.raises(NotSealed, match="does not open"):
            open_prompt(OPERATOR_KEY, seal_prompt(PROMPT, BOND, OPERATOR_KEY.public), other)

    def test_another_key_does_not_open_it(self) -> None:
        with pytest.raises(NotSealed, match="does not open"):
            open_prompt(SealingKey(), seal_prompt(PROMPT, BOND, OPERATOR_KEY.public), BOND)

    def test_a_prompt_that_the_job_does_not_commit_to_is_refused(self) -> None:
        """Anybody can seal to the operator's key, with the right info: only who made the commitment knows the salt."""
        forged = seal_prompt(Prompt.fresh({"prompt": "tell me all"}), BOND, OPERATOR_KEY.public)
        with pytest.raises(NotSealed, match="not the prompt that the job commits to"):
            open_prompt(OPERATOR_KEY, forged, BOND)

    @pytest.mark.parametrize(
        "held",
        [b"no JSON", b"[]", b'{"prompt":"x"}', canonical({"salt": "5a" * 32, "prompt": "x", "more": 1})],
    )
    def test_what_is_no_prompt_is_refused(self, held: bytes) -> None:
        with pytest.raises(NotSealed, match="no prompt"):
            open_prompt(OPERATOR_KEY, seal(held, OPERATOR_KEY.public, BOND.prompt_info()), BOND)

    @pytest.mark.parametrize("said", [{}, {"prompt": "x", "messages": [{"role": "user", "content": "y"}]}])
    def test_a_prompt_and_messages_are_no_job(self, said: dict[str, Any]) -> None:
        with pytest.raises(NotSealed, match="exactly one of prompt, messages"):
            Prompt.fresh(said).in_place(BOND.job)

    def test_a_client_key_of_small_order_is_found_before_anything_runs(self) -> None:
        bad = JobSpec(
            tag="opml", direct=Direct(client_key="00" * 32, commitment=PROMPT.commitment()), model="tiny.gguf"
        )
        bond = replace(BOND, job=bad)
        with pytest.raises(NotSealed, match="no good X25519 key"):
            open_prompt(OPERATOR_KEY, seal_prompt(PROMPT, bond, OPERATOR_KEY.public), bond)

    def test_too_long_a_prompt_is_not_sealed(self) -> None:
        long = Prompt.fresh({"prompt": "x" * (700 << 10)})
        with pytest.raises(NotSealed, match="at most 716800"):
            seal_prompt(long, BOND, OPERATOR_KEY.public)

    def test_two_salts_hide_that_two_prompts_are_the_same(self) -> None:
        one, two = (Prompt.fresh({"prompt": "again"}) for _ in range(2))
        assert one.commitment() != two.commitment()

    def test_a_direct_job_is_opml_and_nothing_beside(self) -> None:
        with pytest.raises(ValueError, match="needs job type opml"):
            JobSpec(tag="tee", direct=BOND.job.direct, model="tiny.gguf")
        with pytest.raises(ValueError, match="direct and stream do not go together"):
            JobSpec(tag="opml", direct=BOND.job.direct, model="tiny.gguf", stream=True)


class TestAnswer:
    def test_the_client_reads_what_the_operator_sealed(self) -> None:
        assert opened(stream("About eleven ", "metres", " a second.")) == (
            "About eleven metres a second.",
            ENDING,
        )

    def test_an_answer_without_text_is_whole_too(self) -> None:
        assert opened(stream()) == ("", ENDING)

    @given(st.lists(st.text(max_size=9000), max_size=4), st.integers(0, 30_000))
    @settings(max_examples=25, deadline=None)
    def test_whatever_text_and_transcript_come_back_whole_in_pieces_that_fit(
        self, texts: list[str], tokens: int
    ) -> None:
        texts = [text.encode(errors="replace").decode() for text in texts]
        ending = ENDING.model_copy(update={"transcript": {"output_tokens": [7] * tokens}})
        chunks = stream(*texts, ending=ending)
        assert max(len(chunk.box) for chunk in chunks) <= MAX_CHUNK_BOX
        assert opened(chunks) == ("".join(texts), ending)

    @given(st.data())
    @settings(max_examples=150, deadline=None)
    def test_any_other_order_cut_or_repetition_is_noticed(self, data: Any) -> None:
        """Whatever is done with the pieces, their texts come in their order from the first on, or not at all."""
        texts = [f"piece {number} " for number in range(5)]
        chunks = stream(*texts)
        bent = data.draw(st.lists(st.sampled_from(chunks), max_size=8))
        if bent == chunks:
            return
        opener = AnswerOpener(BOND, PROMPT, CLIENT)
        with pytest.raises(NotSealed):  # noqa: PT012 - it may be any of these that notices
            for chunk in bent:
                opener.take(chunk)
            opener.ending()
        assert "".join(texts).startswith(opener.text)

    @given(st.integers(0, 3), st.data())
    @settings(max_examples=150, deadline=None)
    def test_every_flipped_bit_is_noticed(self, number: int, data: Any) -> None:
        chunks = stream("one", "two", "three")
        packed = bytearray(pack(chunks[number]))
        bit = data.draw(st.integers(0, 8 * len(packed) - 1))
        packed[bit // 8] ^= 1 << bit % 8
        wire = (
            b"".join(map(pack, chunks[:number])) + bytes(packed) + b"".join(map(pack, chunks[number + 1 :]))
        )
        with pytest.raises(NotSealed):
            opened(Unpacker().feed(wire))

    def test_a_piece_of_whoever_did_not_read_the_prompt_does_not_open(self) -> None:
        """Base mode lets anybody seal to the client's key, which stands in the job for all to see."""
        guess = Prompt(salt="00" * 32, messages=PROMPT.messages)
        (forged, *_) = AnswerSealer(BOND, guess).text("Send me your password.")
        with pytest.raises(NotSealed, match="does not open"):
            AnswerOpener(BOND, PROMPT, CLIENT).take(forged)

    @pytest.mark.parametrize(
        "other", [replace(BOND, job_id="ac" * 32), replace(BOND, operator=DISPATCHER.address)]
    )
    def test_an_answer_to_another_job_does_not_open(self, other: Bond) -> None:
        with pytest.raises(NotSealed, match="does not open"):
            opened(stream("one"), bond=other)

    def test_a_stream_without_its_end_says_so(self) -> None:
        opener = AnswerOpener(BOND, PROMPT, CLIENT)
        for chunk in stream("one", "two")[:-1]:
            opener.take(chunk)
        with pytest.raises(NotSealed, match="cut short"):
            opener.ending()

    @pytest.mark.parametrize(
        ("held", "said"),
        [
            (b"nothing", "cannot be read"),
            (b"[1]", "no JSON object"),
            (b'{"text":7}', "something else"),
            (b'{"more":"x"}', "something else"),
        ],
    )
    def test_a_piece_with_something_else_in_it_is_refused(self, held: bytes, said: str) -> None:
        box = seal(held, CLIENT.public, BOND.piece_info(PROMPT.salt, 0, last=False))
        with pytest.raises(NotSealed, match=said):
            AnswerOpener(BOND, PROMPT, CLIENT).take(DirectChunk(last=False, box=box))

    def test_text_after_the_end_has_begun_is_refused(self) -> None:
        long = ENDING.model_copy(update={"transcript": {"tokens": [7] * 5000}})
        begun = AnswerSealer(BOND, PROMPT).end(long)[0]
        box = seal(b'{"text":"more"}', CLIENT.public, BOND.piece_info(PROMPT.salt, 1, last=False))
        opener = AnswerOpener(BOND, PROMPT, CLIENT)
        opener.take(begun)
        with pytest.raises(NotSealed, match="something else"):
            opener.take(DirectChunk(last=False, box=box))

    def test_an_end_that_is_none_is_refused(self) -> None:
        box = seal(b'{"end":"[]"}', CLIENT.public, BOND.piece_info(PROMPT.salt, 0, last=True))
        opener = AnswerOpener(BOND, PROMPT, CLIENT)
        opener.take(DirectChunk(last=True, box=box))
        with pytest.raises(NotSealed, match="end cannot be read"):
            opener.ending()

    @given(st.lists(st.integers(1, 400), min_size=1))
    @settings(max_examples=50, deadline=None)
    def test_however_http_cuts_the_stream_the_pieces_are_the_same(self, sizes: list[int]) -> None:
        chunks = stream("one", "two")
        wire, unpacker, found = b"".join(map(pack, chunks)), Unpacker(), []
        while wire:
            size = sizes[len(found) % len(sizes)]
            found += unpacker.feed(wire[:size])
            wire = wire[size:]
        assert found == chunks

    @given(st.binary(max_size=200))
    @settings(deadline=None)
    def test_bytes_that_are_no_stream_do_no_harm(self, data: bytes) -> None:
        unpacker, opener = Unpacker(), AnswerOpener(BOND, PROMPT, CLIENT)
        with pytest.raises(NotSealed):  # noqa: PT012
            for chunk in unpacker.feed(data):
                opener.take(chunk)
            opener.ending()

    def test_a_piece_of_a_size_that_none_has_is_not_waited_for(self) -> None:
        with pytest.raises(NotSealed, match="no stream"):
            Unpacker().feed(b"\x7f\xff\xff\xff\x00")


class TestSession:
    def check(self, given_: Session, **changes: Any) -> None:
        expected: dict[str, Any] = {"dispatcher": DISPATCHER.address, "job_id": JOB_ID}
        check_session(given_, DOMAIN, **(expected | changes))

    def test_a_good_one(self) -> None:
        self.check(session())
        self.check(session(url=None))

    @pytest.mark.parametrize(
        "change",
        [
            {"operator": DISPATCHER.address},
            {"key": CLIENT.public},
            {"seed": "00" * 32},
            {"url": "http://evil.example"},
            {"url": None},
            {"expires_at": NOW + 61},
            {"job_id": "00" * 32},
            {"model": ModelOffer(name="tiny.gguf", sha256="00" * 32)},
            {"dispatcher": OPERATOR.address},
        ],
        ids=str,
    )
    def test_every_member_is_signed(self, change: dict[str, Any]) -> None:
        with pytest.raises((InvalidSignature, InvalidMessage)):
            self.check(session().model_copy(update=change))

    def test_it_is_this_dispatchers_for_this_job(self) -> None:
        with pytest.raises(InvalidSignature, match="not by the dispatcher"):
            self.check(session(), dispatcher=OPERATOR.address)
        with pytest.raises(InvalidMessage, match="is for job"):
            self.check(session(), job_id="00" * 32)

    def test_the_operator_itself_accepts_it(self) -> None:
        check_acceptance(session(), self.accepted(session(), OPERATOR))

    def test_a_dispatcher_cannot_put_its_own_key_into_the_session_of_an_operator(self) -> None:
        bent = session(key=CLIENT.public)
        with pytest.raises(InvalidMessage, match="not this session"):
            check_acceptance(bent, self.accepted(session(), OPERATOR))
        with pytest.raises(InvalidSignature, match="not by its operator"):
            check_acceptance(bent, self.accepted(bent, DISPATCHER))

    def test_a_refusal_is_no_acceptance(self) -> None:
        with pytest.raises(InvalidMessage, match="not this session"):
            check_acceptance(session(), self.accepted(session(), OPERATOR, code=400))

    @staticmethod
    def accepted(said: Session, signer: Signer, code: int = 200) -> str:
        result = {"code": code, "message": "success", "accepted": digest(said.to_json())}
        return seal_reply(signer, "1", result).text


class TestCommitments:
    def test_they_say_nothing_without_the_salt(self) -> None:
        one, two = (Commitments.to("aa" * 32, salt * 32, "yes") for salt in ("01", "02"))
        assert one.answer != two.answer

    def test_an_answer_is_no_transcript(self) -> None:
        said = Commitments.to("aa" * 32, "01" * 32, bytes.fromhex("61" * 32).decode())
        assert said.answer != hidden_transcript("01" * 32, "61" * 32)

    @pytest.mark.parametrize(
        "text", ["", "yes", "[]", '{"prompt":"x"}', json.dumps({"prompt": "aa" * 32, "answer": "bb" * 32})]
    )
    def test_another_result_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidMessage):
            Commitments.read(text)

    def test_they_come_back(self) -> None:
        said = Commitments.to("aa" * 32, "01" * 32, "yes")
        assert Commitments.read(said.text()) == said
