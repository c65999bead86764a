"""Anchoring: the newest head of the log goes to the chain at an interval, whenever the log has grown.

1. One of several dispatchers does it, under a lock.  2. What the chain has is the truth: a head whose receipt was lost is taken up
from there, and one that a reorganisation undid is forgotten.  3. The contract itself verifies that the log only grew.
A failure is logged, and tried again at the next interval: nothing else waits for the chain.
"""

import asyncio

import structlog
from sqlalchemy import delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_chain.anchoring import AnchoredHead, latest_head, post_head
from aos_chain.client import Chain
from aos_chain.deployment import Deployment
from aos_chain.errors import ChainError
from aos_dispatcher import log_reader
from aos_dispatcher.database import Database
from aos_dispatcher.errors import LogDamaged, Unavailable
from aos_dispatcher.metrics import ANCHORED_SIZE, ANCHORS
from aos_dispatcher.tables import LogAnchor
from aos_protocol.identity import Signer
from aos_protocol.log import TreeHead, head_claim

log = structlog.get_logger()

_TRY_LOCK = text("select pg_try_advisory_xact_lock(hashtext('aos log anchors'))")


class Anchoring:
    """Posts heads with the dispatcher's own key, which needs ether; `interval` is in seconds."""

    def __init__(
        self, database: Database, chain: Chain, deployment: Deployment, signer: Signer, interval: float
    ) -> None:
        self._database = database
        self._chain = chain
        self._deployment = deployment
        self._signer = signer
        self._interval = interval

    async def run(self) -> None:
        """Anchor for ever."""
        while True:
            try:
                await self.step()
            except (ChainError, LogDamaged, Unavailable) as error:
                ANCHORS.labels("failed").inc()
                log.error(
                    "the log is not anchored; it is tried again", why=str(error), after_s=self._interval
                )
            await asyncio.sleep(self._interval)

    async def step(self) -> TreeHead | None:
        """Anchor the newest head if the log has grown since the last; returns what was anchored.

        Raises `ChainError`, `LogDamaged` or `Unavailable`.
        """
        async with self._database.begin() as connection:
            if not (await connection.execute(_TRY_LOCK)).scalar():
                return None  # another dispatcher is at it
            last = await latest_head(self._chain, self._deployment, self._signer.address)
            await self._take_up(connection, last)
            head = await log_reader.read_head(connection)
            if head is None or head.size <= (last.size if last else 0):
                self._check(head, last)
                return None
            await self._post(connection, head, last)
        ANCHORS.labels("posted").inc()
        ANCHORED_SIZE.set(head.size)
        return head

    async def _post(self, connection: AsyncConnection, head: TreeHead, last: AnchoredHead | None) -> None:
        proof = await log_reader.consistency(connection, last.size, head.size) if last else []
        receipt = await post_head(
            self._chain,
            self._deployment,
            self._signer,
            head_claim(self._signer.address, head),
            signature=head.signature,
            proof=[bytes.fromhex(node) for node in proof],
        )
        row = {
            "size": head.size,
            "root": head.root,
            "block": receipt.block,
            "transaction": receipt.transaction,
        }
        await connection.execute(insert(LogAnchor).values(**row))
        log.info("log anchored", size=head.size, block=receipt.block, transaction=receipt.transaction)

    async def _take_up(self, connection: AsyncConnection, last: AnchoredHead | None) -> None:
        """Let the newest anchor that is stored be the newest that the chain has."""
        stored = (
            await connection.execute(select(LogAnchor.__table__).order_by(LogAnchor.size.desc()).limit(1))
        ).one_or_none()
        found = (last.size, last.root, last.block) if last else None
        if found == ((stored.size, stored.root, stored.block) if stored else None):
            return
        if stored is not None:
            log.warning(
                "the chain has other anchors than were stored: they are taken from there", stored=stored.size
            )
        gone = delete(LogAnchor).where(LogAnchor.size >= (last.size if last else 0))
        await connection.execute(gone)
        if last is not None:
            transaction = await self._transaction_of(last)
            row = {"size": last.size, "root": last.root, "block": last.block, "transaction": transaction}
            await connection.execute(insert(LogAnchor).values(**row))

    async def _transaction_of(self, head: AnchoredHead) -> str:
        events = await self._chain.logs(
            "Anchor", self._deployment.anchor, head.block, head.block, ["Anchored"]
        )
        for event in events:
            if (event.arguments["dispatcher"], event.arguments["size"]) == (self._signer.address, head.size):
                return event.transaction
        raise ChainError(
            f"block {head.block} has no event of the head of {head.size} entries that the contract keeps"
        )

    def _check(self, head: TreeHead | None, last: AnchoredHead | None) -> None:
        """Raise `LogDamaged` when the chain has a head that this log cannot have had."""
        size = head.size if head else 0
        if last is None or (head is not None and (head.size, head.root) == (last.size, last.root)):
            return
        raise LogDamaged(
            f"the chain has a head of {last.size} entries with the root {last.root}, and the log has {size} entries: was the database "
            "put back to an older state? Restore the newer one; this key cannot anchor another log"
        )
