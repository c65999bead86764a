"""What the whole dispatcher is at, counted in PostgreSQL: whichever process counts, the numbers are those of all.

Each query goes down an index: open rounds (`open_by_model`), results of the last minute (`results_made`), verdicts of the last hour (`verdicts_found`).
"""

from dataclasses import dataclass, field
from time import monotonic
from typing import Final, TypeAlias

from sqlalchemy import text

from aos_dispatcher.database import Database

TOKENS_S: Final = 60
VERDICTS_S: Final = 3600
_VERDICTS_EVERY_S: Final = 10.0

ModelKey: TypeAlias = tuple[str, str]
"""A job type and a model's name."""

_ROUNDS = text(
    "select job_type, model, status, count(*) as number from rounds where status in ('created', 'dispatched') "
    "group by job_type, model, status"
)
_SEATS = text(
    "select operator, role, count(*) as number from rounds join assignments on round_id = rounds.id "
    "where status = 'dispatched' and state = 'assigned' group by operator, role"
)
_MADE = text(
    "select operator, job_type, model, sum(tokens) as tokens from results join rounds on rounds.id = round_id "
    "where results.created_at > now() - make_interval(secs => :seconds) and tokens is not null group by operator, job_type, model"
)
# A challenge's round names the answer that it is about; of any other, the executor who answered made it.
_VERDICTS = text(
    """
    select coalesce(subject.operator, executor.operator) as operator, verdict ->> 'outcome' as outcome, count(*) as number
    from rounds
    left join results subject on subject.id = rounds.subject
    left join lateral (
        select operator from assignments where round_id = rounds.id and role = 'executor' and state = 'answered' order by rank limit 1
    ) executor on true
    where (verdict ->> 'outcome') is not null and finished_at > now() - make_interval(secs => :seconds)
    group by 1, 2
    """
)


@dataclass
class Figures:
    """Open rounds by model and status, open seats by operator and role, tokens of the last minute, verdicts of the last hour by outcome."""

    rounds: dict[tuple[ModelKey, str], int] = field(default_factory=dict)
    seats: dict[tuple[str, str], int] = field(default_factory=dict)
    tokens: dict[tuple[str, ModelKey], int] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], int] = field(default_factory=dict)


class Census:
    """Counts, for one process. Verdicts, of which an hour has many, are counted every ten seconds at most, everything else each time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._verdicts: dict[tuple[str, str], int] = {}
        self._verdicts_until = 0.0

    async def count(self) -> Figures:
        """Count everything once. Raises `Unavailable`."""
        async with self._database.connect() as connection:
            rounds = (await connection.execute(_ROUNDS)).all()
            seats = (await connection.execute(_SEATS)).all()
            made = (await connection.execute(_MADE, {"seconds": TOKENS_S})).all()
            if monotonic() >= self._verdicts_until:
                found = await connection.execute(_VERDICTS, {"seconds": VERDICTS_S})
                told = [row for row in found.all() if row.operator is not None]
                self._verdicts = {(row.operator, row.outcome): row.number for row in told}
                self._verdicts_until = monotonic() + _VERDICTS_EVERY_S
        return Figures(
            {((row.job_type, row.model), row.status): row.number for row in rounds},
            {(row.operator, row.role): row.number for row in seats},
            {(row.operator, (row.job_type, row.model)): int(row.tokens) for row in made},
            self._verdicts,
        )
