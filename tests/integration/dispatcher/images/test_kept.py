"""How many images are kept, as `/metrics` says."""

import asyncio

from sqlalchemy import func, update

from aos_dispatcher.blobs import Blobs
from aos_dispatcher.metrics import IMAGE_BYTES_KEPT, IMAGES_KEPT
from aos_dispatcher.settings import Limits
from aos_dispatcher.tables import Blob
from aos_protocol.images import read_header
from integration.dispatcher.conftest import Network
from support.pictures import png

PICTURES = [png(64, 96), png(32, 32, (1, 2, 3))]


async def test_images_that_are_kept_are_counted_with_their_bytes(network: Network) -> None:
    database = network.dispatcher.database
    blobs = Blobs(database, Limits())
    for picture in PICTURES:
        await blobs.keep("shop", picture, read_header(picture))
    await counted(blobs, 2, sum(map(len, PICTURES)))
    async with database.begin() as connection:
        await connection.execute(update(Blob).values(expires_at=func.now()))
    await blobs.sweep()
    await counted(blobs, 0, 0)


async def counted(blobs: Blobs, images: int, size: int) -> None:
    """Count until these are shown: the network's own dispatcher counts too, and may have begun before."""
    async with asyncio.timeout(20):
        while shown() != [images, size]:
            await blobs.count()


def shown() -> list[float]:
    return [
        sample.value for gauge in (IMAGES_KEPT, IMAGE_BYTES_KEPT) for sample in gauge.collect()[0].samples
    ]
