"""Private jobs: the prompt is sealed to attested enclaves here, and the answer, sealed to a key made here, is opened here.

    key = SealingKey()
    request, enclaves = await seal_request(client, request, policy, key)
    ...  # submit it, and wait
    [answer] = open_answers(document, key)

Neither dispatcher nor operator sees prompt or answer. The prompt is sealed only to enclaves that the policy finds good now; the
request names them, and the job id binds the request: whoever opens the answer later needs no policy any more.
"""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.enclaves import Enclave, good_ones, judge
from aos_cli.errors import CliError
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.attestation.statement import EnclaveStatement, Keyset
from aos_protocol.canonical import digest
from aos_protocol.errors import InvalidMessage, InvalidTranscript, NotSealed, ProtocolError
from aos_protocol.evidence import Check, round_views
from aos_protocol.evidence_view import RoundView
from aos_protocol.fields import Hex32, Message, parse_message
from aos_protocol.job import MAX_BOXES, Params
from aos_protocol.messages import JobResult
from aos_protocol.sealing import SealingKey, open_answer, seal_prompt
from aos_protocol.transcript import FinishReason, Transcript

SEALED = "AOS-SEALED-1"

_NEEDED = frozenset({"AOS-JOB-1", "AOS-SEED-1", "AOS-RESULT-1", "AOS-ENCLAVE-1", SEALED})
"""What must pass before an opened answer is shown: the id binds request and keysets, and a key of these signed the answer."""


@dataclass(frozen=True)
class Opened:
    """An answer that was opened, and who gave it."""

    operator: str
    text: str


class _Answer(Message):
    """What an enclave seals: what it answers to an open prompt."""

    text: str
    finish_reason: FinishReason
    transcript: dict[str, Any]
    commitment: Hex32
    usage: dict[str, int]


async def seal_request(
    client: DispatcherClient, request: JsonObject, policy: AttestationPolicy, key: SealingKey
) -> tuple[JsonObject, list[Enclave]]:
    """Return the request with its prompt sealed to all enclaves that the policy finds good now, and every one that was asked.

    Raises `CliError` when none is good or the prompt cannot be sealed, and as `DispatcherClient` does.
    """
    job = dict(request["job"])
    enclaves = await ask_dispatcher(client, policy, model=job["model"], nonce=secrets.token_hex(32))
    good: dict[str, tuple[str, Keyset]] = {}
    for operator, attestation in good_ones(enclaves):  # which may share one: it needs one box
        good.setdefault(attestation.keyset.digest(), (operator, attestation.keyset))
    if not good:
        raise CliError(
            f"the prompt was not sent: no enclave for model {job['model']} is good by the policy{_why_not(enclaves)}"
        )
    keysets = list(good.values())[:MAX_BOXES]
    try:
        params = parse_message(Params, job["params"])
        sealed = seal_prompt({"prompt": job.pop("prompt")}, (job["model"], params), key.public, keysets)
    except ProtocolError as error:
        raise CliError(f"the prompt was not sent, for it cannot be sealed: {error}") from error
    return request | {"job": job | {"sealed": sealed.to_json()}}, enclaves


async def ask_dispatcher(
    client: DispatcherClient, policy: AttestationPolicy, *, model: str, nonce: str
) -> list[Enclave]:
    """Have a dispatcher relay a nonce to its enclaves that serve a model, and judge what comes back."""
    return judge(await client.attestations(model, nonce), policy, model=model, nonce=nonce)


def keep_key(file: Path, key: SealingKey) -> None:
    """Write a reply key into a new file that only its owner may read. Raises `CliError` when it exists, or cannot be written."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CliError(
            f"{file} exists already: name another file, since it may hold the only key that opens an answer"
        ) from None
    except OSError as error:
        raise CliError(f"the reply key cannot be kept in {file}: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as written:
        written.write(key.secret.hex() + "\n")


def drop_key(file: Path) -> None:
    """Remove a reply key that `keep_key` wrote: the job was refused, so there is nothing that it could open."""
    file.unlink()


def read_key(file: Path) -> SealingKey:
    """Return the reply key that `keep_key` wrote. Raises `CliError`, which does not show what the file holds."""
    try:
        return SealingKey(bytes.fromhex(file.read_text(encoding="ascii")))
    except OSError as error:
        raise CliError(f"the reply key {file} cannot be read: {error.strerror}") from error
    except (ValueError, NotSealed):
        raise CliError(
            f"{file} holds no reply key: it has 64 hex digits, as `aos submit --private --reply-key FILE` wrote them"
        ) from None


def open_answers(document: JsonObject, key: SealingKey) -> list[Opened]:
    """Open the answers of a sealed job, each from a document whose other checks are the caller's to make.

    1. The job was sealed, and its answer goes to this key.  2. The box opens as the answer of this operator and keyset to exactly
    this prompt and seed.  3. The transcript inside is of the job's model, parameters, seed and operator, and has the stated commitment.
    Raises `NotSealed`, `InvalidTranscript` or another `ProtocolError`.
    """
    return [
        _open(view, result, key)
        for view in round_views(document)
        for result in view.results
        if result.answered
    ]


def check_sealed(document: JsonObject, key: SealingKey) -> Check:
    """Say whether the answers open with a project's key, and hold what they must."""
    what = "the answer opens with the reply key, and its transcript is of the job's model, parameters, seed and operator"
    try:
        if not open_answers(document, key):
            return Check(SEALED, "SKIP", "there is no answer")
    except ProtocolError as error:
        return Check(SEALED, "FAIL", f"{what}: {error}")
    return Check(SEALED, "PASS", what)


def hold(checks: Sequence[Check]) -> None:
    """Return quietly if an opened answer may be shown. Raises `CliError` with what fails, or could not be checked."""
    bad = [check for check in checks if check.status == "FAIL"]
    passed = {check.id for check in checks if check.status == "PASS"}
    bad += [check for check in checks if check.id in _NEEDED - passed and check not in bad]
    if bad or not passed >= _NEEDED:
        said = "; ".join(f"{check.id}: {check.what}" for check in bad) or "checks are missing"
        raise CliError(f"the answer is not shown, since it may not be the enclave's: {said}")


def _open(view: RoundView, result: JobResult, key: SealingKey) -> Opened:
    job, seed = view.request.job, view.evidence.seed.value
    if job.sealed is None:
        raise NotSealed("the job's prompt was not sealed, so its answer is not either: leave --reply-key out")
    if job.sealed.reply_key != key.public:
        raise NotSealed("this is not the key that the job's answer goes to: give the file made with this job")
    keyset = parse_message(EnclaveStatement, result.enclave).attestation.keyset.digest()
    opened = open_answer(key, result.result, job.sealed, seed=seed, prover=result.operator, keyset=keyset)
    try:
        answer = parse_message(_Answer, opened)
    except InvalidMessage as error:
        raise NotSealed(f"the sealed answer cannot be read: {error}") from error
    transcript = Transcript.from_json(answer.transcript)
    stated = (transcript.model, transcript.seed, transcript.prover, transcript.finish_reason)
    if stated != (view.document.model.sha256, seed, result.operator, answer.finish_reason):
        raise InvalidTranscript("the sealed transcript is of another model, seed, operator or end")
    if digest(transcript.params.model_dump(mode="json")) != job.params.digest():
        raise InvalidTranscript("the sealed transcript was made with other parameters than the job's")
    if transcript.commitment() != answer.commitment:
        raise InvalidTranscript("the commitment in the sealed answer is not its transcript's")
    return Opened(result.operator, answer.text)


def _why_not(enclaves: Sequence[Enclave]) -> str:
    if not enclaves:
        return ", for none is connected"
    return "".join(f"\n  {each.operator}: {each.reason}" for each in enclaves)
