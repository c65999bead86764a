"""What jobs for images need besides: their bytes, what operators ask about those, and fetching one that a request names by its URL."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from aos_dispatcher.blob_desk import Ask, BlobDesk
from aos_dispatcher.blobs import Blobs
from aos_dispatcher.database import Database
from aos_dispatcher.fetching import Fetcher
from aos_dispatcher.settings import DispatcherSettings


@dataclass(frozen=True)
class Images:
    """The parts; `run` them. `asks` are an operator's requests (`link.OperatorLink`)."""

    blobs: Blobs
    fetcher: Fetcher
    asks: Mapping[str, Ask]

    @classmethod
    def of(cls, settings: DispatcherSettings, database: Database) -> Self:
        """Put the parts together."""
        blobs = Blobs(database, settings.limits)
        return cls(blobs, Fetcher(settings.gateway, settings.limits.upload_bytes), BlobDesk(blobs).methods)

    async def run(self) -> None:
        """Forget expired images, for ever."""
        await self.blobs.run()
