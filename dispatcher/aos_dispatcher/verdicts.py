"""A round's verdict: computed from its stored scores, never signed (`aos_protocol.verdict`)."""

from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import calibrations
from aos_dispatcher.round import stored_score
from aos_dispatcher.tables import JsonObject, Round
from aos_dispatcher.tables import Score as Row
from aos_protocol.calibration import Calibration
from aos_protocol.fields import parse_message
from aos_protocol.score_document import Score
from aos_protocol.verdict import Verdict, judge, overall


@dataclass(frozen=True)
class Judgement:
    """The scores of a round by verifier, in the order of their arrival, and what they say together by this calibration."""

    scores: dict[str, Score]
    calibration: Calibration | None
    verdict: Verdict


async def judgement(connection: AsyncConnection, round_id: int, unscored: str = "") -> Judgement:
    """Judge a round by all that is stored of it: the same whichever process took the scores in. Without any, `unscored` says why."""
    digest = select(Round.calibration).where(Round.id == round_id)
    calibration = await calibrations.load(connection, (await connection.execute(digest)).scalar())
    query = select(Row.operator, Row.frame).where(Row.round_id == round_id).order_by(Row.id)
    scores = {
        row.operator: parse_message(Score, stored_score(row.frame).score)
        for row in await connection.execute(query)
    }
    verdict = overall([judge(score, calibration) for score in scores.values()])
    if not scores and unscored:
        verdict = replace(verdict, reason=unscored)
    return Judgement(scores, calibration, verdict)


def verdict_json(verdict: Verdict) -> JsonObject:
    """Return a verdict as it is stored, shown, and put into evidence."""
    return {
        "outcome": verdict.outcome,
        "level": verdict.level,
        "reason": verdict.reason,
        "statistics": dict(verdict.statistics),
        "tokens_needed": verdict.tokens_needed,
    }
