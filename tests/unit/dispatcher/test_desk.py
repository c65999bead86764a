"""What is kept of refused frames: the first ones of each operator, within an hour."""

from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from aos_dispatcher import desk
from aos_dispatcher.desk import MOST_KEPT, Desk
from aos_dispatcher.rounds_store import RoundsStore
from aos_protocol.frames import Frame, seal_request
from aos_protocol.identity import Signer

ONE, OTHER = (Signer(bytes([number]) * 32) for number in (5, 6))


class Shelf:
    """Takes what is kept, in the place of a database."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    async def reject(self, _job_id: str | None, operator: str, *_said: Any) -> None:
        self.kept.append(operator)


def refused(signer: Signer) -> Frame:
    return seal_request(signer, "1", "job_result", [{}])


async def test_no_operator_fills_the_disk_with_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(desk, "monotonic", lambda: now[0])
    shelf = Shelf()
    kept = Desk(cast("RoundsStore", shelf), {})
    with capture_logs() as logs:
        for _ in range(MOST_KEPT + 2):
            await kept.keep(refused(ONE), "no")
    await kept.keep(refused(OTHER), "no")
    assert shelf.kept == [ONE.address] * MOST_KEPT + [OTHER.address]
    assert [line["operator"] for line in logs if line["log_level"] == "warning"] == [ONE.address]
    now[0] += 3600
    await kept.keep(refused(ONE), "no")
    assert shelf.kept[-1] == ONE.address
