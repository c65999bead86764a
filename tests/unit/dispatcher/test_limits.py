"""Limits that cannot be: refused before any database is asked."""

import pytest

from aos_dispatcher.database import Database
from aos_dispatcher.errors import DispatcherError
from aos_dispatcher.limits import set_quota
from aos_service.database import create_engine, database_url


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate": 2e6}, "a rate of 2e+06 jobs a second cannot be"),
        ({"rate": 1e-9}, "a rate of 1e-09 jobs a second cannot be"),
        ({"rate": float("nan")}, "a rate of nan jobs a second cannot be"),
        ({"burst": 0}, "a burst of 0 jobs cannot be"),
        ({"daily": -1}, "-1 daily jobs cannot be"),
        ({"waiting": 1 << 63}, "waiting jobs cannot be"),
    ],
)
async def test_a_limit_that_cannot_be_is_refused(changes: dict[str, float], said: str) -> None:
    nowhere = database_url("postgresql://nobody@/nothing?host=/nowhere")
    engine = create_engine(nowhere, pool_min=1, pool_max=1, connect_timeout=1, acquire_timeout=1)
    with pytest.raises(DispatcherError) as caught:
        await set_quota(Database(engine), "shop", changes)
    assert said in str(caught.value)
    await engine.dispose()
