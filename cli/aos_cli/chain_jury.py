"""What a juror finds: the challenged answer, scored again by the juror's own worker and judged here."""

from pathlib import Path

from aos_cli.chain_claims import Found, results_of
from aos_cli.client import JsonObject
from aos_cli.errors import CliError
from aos_cli.failures import BadAnswer, Unreachable
from aos_cli.models import read_calibration
from aos_operator.backends.worker import HttpWorker
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from aos_operator.subjects import Subject
from aos_protocol.calibration import Calibration
from aos_protocol.errors import ProtocolError
from aos_protocol.evidence import round_views
from aos_protocol.evidence_work import check_extent
from aos_protocol.fields import parse_message
from aos_protocol.job import Claim, JobSpec, SubmitRequest
from aos_protocol.score_document import Score
from aos_protocol.transcript import Transcript
from aos_protocol.verdict import Verdict, judge

_TIMEOUT_S = 900.0


def challenged_result(document: JsonObject, subject: bytes) -> Found:
    """Return the result that a mismatch challenge is about, by the hash that the contract keeps.

    Raises:
        CliError: when this evidence does not hold it.
    """
    for found in results_of(document):
        if found.judged() == subject:
            return found
    raise CliError(
        "this evidence does not hold the challenged result: give that of the challenge's job, which aos chain status ID names"
    )


async def rescore(document: JsonObject, found: Found, worker: str, model: Path | None) -> Verdict:
    """Have a worker score an answer with its own copy of the model, and judge the score.

    It is judged by the calibration beside `model`, or where none is given, by the one that the job's evidence names.

    Raises:
        Unreachable: when no worker answers.
        BadAnswer: when its score is of something else.
        CliError: when the answer cannot be scored, or the calibration cannot be read.
    """
    if found.result.transcript is None:
        kind = "a sealed answer" if found.result.record is None else "an answer without a transcript"
        raise CliError(f"{kind} cannot be scored by others: vote inconclusive, with --verdict")
    try:
        job = parse_message(SubmitRequest, document["job"]["request"]).job
        score = await _scored(job, found, worker)
        calibration = read_calibration(model) if model is not None else _named(document)
    except ProtocolError as error:
        raise BadAnswer(f"what the worker at {worker} gives is no score of this answer: {error}") from error
    return judge(score, calibration)


async def _scored(job: JobSpec, found: Found, url: str) -> Score:
    transcript = Transcript.from_json(found.result.transcript)
    claim = Claim(
        output_tokens=list(transcript.output_tokens),
        seed=transcript.seed,
        prover=transcript.prover,
        fingerprints=transcript.fingerprints,
    )
    subject = Subject(transcript.commitment(), claim, found.result.operator, transcript, found.result.result)
    client = HttpWorker(url, _TIMEOUT_S)
    try:
        said = await client.score(job, subject)
    except WorkerUnavailable as error:
        raise Unreachable(f"{url}: {error}") from error
    except WorkerRefused as error:
        raise CliError(f"the worker at {url} cannot score this answer: {error}") from error
    finally:
        await client.close()
    scores = said.get("scores")
    score = parse_message(Score, scores[0] if isinstance(scores, list) and len(scores) == 1 else None)
    if score.subject != subject.digest:
        raise BadAnswer(f"the worker at {url} scored {score.subject}, not {subject.digest}")
    if score.model != found.claim.model:
        raise BadAnswer(
            f"the worker at {url} has model {score.model}, and the answer is of {found.claim.model}: use one that has it"
        )
    check_extent(score, job, transcript)
    return score


def _named(document: JsonObject) -> Calibration | None:
    """The calibration by which the job's own round is judged."""
    own = next((view for view in round_views(document) if view.is_own), None)
    return own.calibration if own is not None else None
