"""Images while processes stop and start, and over several processes of one dispatcher: no image is made twice, and none is lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import text
from structlog.testing import capture_logs

from aos_dispatcher import blobs as blobs_module
from aos_dispatcher.operators import register_operator
from aos_dispatcher.settings import Cluster
from aos_operator import runner
from aos_operator.blob_store import PostgresBlobs
from aos_protocol.identity import Signer
from aos_service.database import create_engine, database_url
from integration.dispatcher.conftest import Network
from integration.dispatcher.images.conftest import KEY, MODEL, Gallery, opened
from integration.dispatcher.several import Several
from integration.operator.processes import OperatorProcess
from support.fake_image_server import FakeImageServer
from support.pictures import png


async def told(said: Any, event: str) -> None:
    """Wait until the log tells of this."""
    async with asyncio.timeout(20):
        while not any(entry["event"] == event for entry in said):
            await asyncio.sleep(0.01)


async def test_an_operator_that_is_stopped_before_its_images_are_taken_brings_them_when_it_is_back(
    bare: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatcher has no room for them until the operator has been started again; nothing is made a second time."""
    monkeypatch.setattr(runner, "GRACE_S", 0)
    monkeypatch.setattr(blobs_module, "MOST_BLOBS", 0)
    with capture_logs() as said:
        async with bare.operator():
            asking = asyncio.create_task(bare.post("generations", n=2))
            await told(said, "the result will be sent again")
        monkeypatch.setattr(blobs_module, "MOST_BLOBS", 10)
        async with bare.operator():
            answer = await asking
    assert answer.status_code == 200, answer.text
    assert len(bare.painter.requests) == 1
    for entry in answer.json()["data"]:
        assert (await bare.read(entry["url"])).status_code == 200
    await bare.store.blobs.sweep()
    assert bare.store.blobs.kept == {}


async def test_a_dispatcher_that_starts_anew_takes_the_images_up_where_they_were(
    bare: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "GRACE_S", 0)
    monkeypatch.setattr(blobs_module, "MOST_BLOBS", 0)
    network = bare.network
    async with bare.operator():
        with capture_logs() as said:
            job = {"tag": "opml", "prompt": "x", "model": "SuperImage", "image": {"width": 64, "height": 64}}
            job_id = await network.submit(job=job)
            await told(said, "the result will be sent again")
        await network.stop()
        monkeypatch.setattr(blobs_module, "MOST_BLOBS", 10)
        await network.start()
    bare.base = str(network.client.base_url).rstrip("/")
    async with bare.operator():
        detail = await network.finished(job_id)
    assert detail["status"] == "completed"
    assert len(bare.painter.requests) == 1


async def test_an_operator_process_that_is_killed_has_its_images_in_postgresql(
    bare: Gallery, tmp_path: Path, new_database: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real `operator-runner`, with the settings that the page shows, ended by SIGKILL before its images are taken."""
    models = {
        "kind": "openai",
        "url": f"{bare.painter.url}/v1",
        "kinds": [1, 2],
        "models": {MODEL: "sd-fake"},
    }
    database = await new_database("operator")
    configuration = {
        "db": {"pg_db_url": database, "min_connect_pool": 1, "max_connect_pool": 4},
        "queue": {"queue_url": redis_url},
        "net": {"dispatcher_url": bare.network.ws},
        "node": {
            "signer_key": "0x" + bare.signer.secret.hex(),
            "dispatcher_address": bare.network.signer.address,
        },
        "backends": [models | {"api_key": KEY}],
    }
    monkeypatch.setattr(blobs_module, "MOST_BLOBS", 0)
    hub = bare.network.dispatcher.hub
    async with OperatorProcess(tmp_path, configuration).running() as process:
        async with asyncio.timeout(20):
            while bare.signer.address not in hub.connected():
                await asyncio.sleep(0.02)
        asking = asyncio.create_task(bare.post("generations", n=2))
        async with asyncio.timeout(20):
            while "the result will be sent again" not in process.log():
                await asyncio.sleep(0.02)
        await process.kill()
        monkeypatch.setattr(blobs_module, "MOST_BLOBS", 100)
        process.start()
        answer = await asking
        assert answer.status_code == 200, answer.text
        assert len(bare.painter.requests) == 1
        for entry in answer.json()["data"]:
            assert (await bare.read(entry["url"])).status_code == 200
        assert KEY not in process.log()
    engine = create_engine(
        database_url(database), pool_min=1, pool_max=2, connect_timeout=5, acquire_timeout=5
    )
    kept = 1
    async with asyncio.timeout(20), engine.connect() as connection:
        while kept:  # the task is closed once the operator has heard that its result was taken
            await PostgresBlobs(engine, bare.signer.address).sweep()
            kept = (await connection.execute(text("select count(*) from blobs"))).scalar_one()
            await connection.commit()
    await engine.dispose()


@pytest_asyncio.fixture
async def two(new_database: Any, redis_url: str, painter: FakeImageServer) -> AsyncIterator[Several]:
    """Two processes of one dispatcher."""
    database, signer = await new_database("dispatcher"), Signer.generate()
    networks = [opened(Network(database)) for _ in range(2)]
    for network in networks:
        network.signer = signer
        cluster = Cluster(redis_url=SecretStr(redis_url))
        network.settings = network.settings.model_copy(update={"cluster": cluster})
        await network.start()
    running = Several(networks)
    networks[1].token = await running.a.project()
    yield running
    for network in networks:
        await network.stop()


async def test_images_come_by_whichever_process_has_the_operator(
    two: Several, painter: FakeImageServer
) -> None:
    """It is asked at one process, led there, made by an operator at the other, and read at both."""
    here, there = Gallery(two.a, painter), Gallery(two.b, painter)
    there.signer = here.signer
    await register_operator(two.b.dispatcher.database, there.signer.address)
    async with there.operator():
        await two.until(lambda: there.signer.address in two.a.dispatcher.hub.connected())
        made = await here.post("generations")
        assert made.status_code == 200, made.text
        url = made.json()["data"][0]["url"]
        for base in (here.base, there.base):
            assert (await here.read(base + url.removeprefix(here.base))).status_code == 200
        source = png(16, 16)
        form = {"model": "SuperImage", "prompt": "x", "size": "64x64"}
        edited = await two.a.client.post(
            "/v1/images/edits", data=form, files={"image": source}, headers=here.bearer
        )
        assert edited.status_code == 200, edited.text
        assert painter.uploads == [source]
    for gallery in (here, there):
        await gallery.openai.close()
