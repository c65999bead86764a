"""Puts an operator together and runs it until it is told to stop."""

import asyncio
from collections.abc import Collection, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import structlog

from aos_operator.attesting import Attesting
from aos_operator.backends.build import open_backends
from aos_operator.backends.protocol import Backend
from aos_operator.backends.router import Router
from aos_operator.backends.worker import HttpWorker
from aos_operator.counter import Counter
from aos_operator.courier import Courier
from aos_operator.database import check_tables
from aos_operator.direct import DirectDesk
from aos_operator.direct_relay import DirectRelay
from aos_operator.errors import Refused, StartError
from aos_operator.jobs import Jobs, Limits
from aos_operator.link import Link, Target
from aos_operator.offer import Offer
from aos_operator.outbox import Outbox
from aos_operator.queue import Queue, RedisQueue, connect_redis
from aos_operator.registry import Registry, open_registry
from aos_operator.settings import NodeSettings, OperatorSettings
from aos_operator.store import PostgresStore, Store
from aos_operator.streams import Streams
from aos_operator.studio import Studio
from aos_operator.tasks import Request, TaskKey
from aos_operator.watch import WorkerWatch
from aos_operator.workshop import Workshop
from aos_protocol.canonical import JsonObject
from aos_protocol.fields import EvidenceLevel
from aos_protocol.identity import Signer
from aos_protocol.messages import Attest, DirectPrompt, Dispatch, Draw
from aos_service.database import create_engine
from aos_service.keys import load_signer
from aos_service.tracing import exporting

GRACE_S = 3.0
"""How long a stopping operator waits for its open tasks, in seconds; what is not done by then is durable."""

_CANCEL_AGAIN_S = 0.5
_STATEMENT_S = 10.0
"""How long one statement may take, as long as one command of Redis: no answer at all is what a connection gives that a network forgot."""

_log = structlog.get_logger(__name__)


async def run_operator(
    settings: OperatorSettings,
    stop: asyncio.Event,
    *,
    file: Path | None = None,
    worker: Backend | None = None,
) -> None:
    """Run until `stop` is set, on the configured PostgreSQL, Redis and worker (or on the `worker` given).

    `file` is where the settings came from. Raises `OperatorError` or `ServiceError`, possibly in an exception group,
    when the operator cannot start, or may not go on.
    """
    signer = await asyncio.to_thread(_signer, settings, file)  # opening a keystore takes half a second
    for notice in settings.notices():
        _log.info(notice)
    async with AsyncExitStack() as stack:
        stack.enter_context(exporting("operator-runner", settings.telemetry.otlp_endpoint))
        store = await _open_store(settings, signer.address, stack)
        queue = await _open_queue(settings, signer.address, stack)
        if worker is None:
            worker = _open_worker(settings)
            stack.push_async_callback(worker.close)
        registry = await open_registry(settings.chain, signer.address, stack)
        operator = Operator(settings, signer, store, queue, worker, registry=registry)
        if settings.registration is not None and isinstance(worker, Router):
            from aos_operator.registration_node import registering  # only such an operator needs uvicorn

            registrar = registering(
                settings.registration.port,
                store.instances,
                worker,
                operator.look_again,
                taken=operator.pinned,
                ready=operator.welcomed,
            )
            await stack.enter_async_context(registrar)
        await operator.run(stop)


class Operator:
    """All parts of a running operator, joined."""

    def __init__(
        self,
        settings: NodeSettings,
        signer: Signer,
        store: Store,
        queue: Queue,
        worker: Backend,
        *,
        registry: Registry | None,
    ) -> None:
        node, net = settings.node, settings.net
        self._address = signer.address
        outbox = Outbox(Counter(store))
        limits = Limits(node.cache_msg_maximum, net.worker_concurrency, settings.api.read_maximum)
        self._courier = Courier(store.blobs, outbox)
        studio = Studio(worker, signer.address, self._courier)
        self._direct = DirectDesk(signer.address, net.outer_url)
        self._listen = net.listen
        self._relay = DirectRelay(outbox)
        self._streams = Streams(outbox)
        workshop = Workshop(
            worker,
            signer.address,
            outbox.domain,
            studio,
            self._direct,
            streams=self._streams,
            offered=self._offered,
        )
        self._jobs = Jobs(store, queue, workshop, self._courier, limits)
        self._watch = WorkerWatch(worker, node.node_type, node.ai_models, node.heartbeat_interval)
        self._registry = registry
        self._desk = _Desk(
            self._watch, self._jobs, Attesting(worker), registry, direct=self._direct, relay=self._relay
        )
        domain = registry.domain if registry else None
        tls = net.tls.context() if net.tls else None
        target = Target(net.dispatcher_url, node.dispatcher_address, node.heartbeat_interval, domain, tls)
        self._link = Link(target, signer, self._desk, outbox)
        self.welcomed = self._link.welcomed
        self.look_again = self._watch.nudge
        self.pinned = self._watch.pinned

    def _offered(self, model: str) -> EvidenceLevel:
        """What answers of this model must show, by what was last announced."""
        return self._watch.offer.evidence_of(model)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; then take nothing more, wait a moment for open tasks, and end."""
        _log.info("operator starts", operator=self._address, node_type=self._watch.offer.worker_type)
        async with asyncio.TaskGroup() as group:
            work = (self._jobs.run(), self._courier.run(), self._relay.run(), self._face_dispatcher())
            parts = [group.create_task(part) for part in (*work, self._streams.run())]
            if self._listen is not None:
                from aos_operator import direct_http  # only such an operator needs uvicorn

                parts.append(group.create_task(direct_http.serve(self._direct, *self._listen)))
            if self._registry is not None:
                parts.append(group.create_task(self._registry.run()))
            await stop.wait()
            self._desk.stopping = True
            self._direct.close()
            _log.info("operator stops", open_tasks=self._jobs.open_count)
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE_S):
                    await self._jobs.idle()
            await _cancel(parts)

    async def _face_dispatcher(self) -> None:
        """Connect once the worker has said what it serves: an operator without models has nothing to announce."""
        await self._watch.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._link.run())
            group.create_task(self._watch.run(self._link.renew))


async def _cancel(parts: Collection[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: redis-py can lose a cancellation that meets the reply it is reading."""
    pending = set(parts)
    while pending:
        for part in pending:
            part.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)


class _Desk:
    """`link.Desk`: puts the dispatcher's requests to the worker's watch, to the registry, to the jobs and to the enclave."""

    def __init__(
        self,
        watch: WorkerWatch,
        jobs: Jobs,
        attesting: Attesting,
        registry: Registry | None,
        *,
        direct: DirectDesk,
        relay: DirectRelay,
    ) -> None:
        self._watch = watch
        self._jobs = jobs
        self._attesting = attesting
        self._registry = registry
        self._direct = direct
        self._relay = relay
        self.stopping = False

    def offer(self) -> Offer:
        """See `Desk.offer`. What is for an enclave is sealed to it, not to its operator."""
        offer = self._watch.offer
        return replace(offer, direct=self._direct.offer) if offer.worker_type == "opml" else offer

    async def admit(self, draw: Draw) -> None:
        """See `Desk.admit`."""
        self._check_worker()
        if self._jobs.full:
            raise Refused(429, "the queue is full")
        if self._registry is not None:
            await self._registry.check(draw)

    async def take(self, request: Request) -> None:
        """See `Desk.take`."""
        self._check_running()
        if self._registry is not None:
            await self._registry.check(request)
        if not isinstance(request, Dispatch) or request.job.direct is None:
            await self._jobs.take(request)
            return
        self._direct.check_room(request)
        await self._jobs.take(request)
        self._direct.expect(request)

    async def cancel(self, keys: Iterable[TaskKey]) -> None:
        """See `Desk.cancel`."""
        keys = list(keys)
        await self._jobs.cancel(keys)
        for key in keys:
            self._direct.forget(key.job_id)

    def relay(self, prompt: DirectPrompt) -> None:
        """See `Desk.relay`."""
        visit = self._direct.come(prompt.job_id, prompt.box)
        self._relay.start(prompt.job_id, prompt.route, visit)

    async def attest(self, call: Attest) -> JsonObject:
        """See `Desk.attest`."""
        self._check_worker()
        return await self._attesting.attest(call, self._watch.offer.enclave_model(call.model))

    def _check_worker(self) -> None:
        self._check_running()
        if self._watch.away:
            raise Refused(503, f"no worker at the moment: {self._watch.away}")

    def _check_running(self) -> None:
        if self.stopping:
            raise Refused(503, "this operator is shutting down")


def _open_worker(settings: OperatorSettings) -> HttpWorker | Router:
    """What runs the models: the backends of the settings, or without any, the one worker; models that register join them."""
    timeout = settings.net.worker_timeout
    if settings.registration is None and settings.has_worker:
        return HttpWorker(settings.worker_url, timeout)
    router = open_backends(settings.backends, timeout)
    if settings.has_worker:
        router.put("worker", HttpWorker(settings.worker_url, timeout))
    return router


def _signer(settings: OperatorSettings, file: Path | None) -> Signer:
    node = settings.node
    signer = load_signer(
        node.signer_key, keystore=node.keystore, password_file=node.keystore_password_file, file=file
    )
    if node.node_id is not None and node.node_id != signer.address:
        raise StartError(
            f"node.node_id is {node.node_id}, but the key is that of {signer.address}: correct one of the two"
        )
    return signer


async def _open_store(settings: OperatorSettings, operator: str, stack: AsyncExitStack) -> PostgresStore:
    url = settings.db.url()
    await check_tables(url)
    engine = create_engine(
        url,
        pool_min=settings.db.min_connect_pool,
        pool_max=settings.db.max_connect_pool,
        connect_timeout=settings.db.connect_timeout,
        acquire_timeout=settings.db.acquire_timeout,
        statement_timeout=_STATEMENT_S,
    )
    stack.push_async_callback(engine.dispose)
    return PostgresStore(engine, operator)


async def _open_queue(settings: OperatorSettings, operator: str, stack: AsyncExitStack) -> RedisQueue:
    queue = RedisQueue(
        connect_redis(settings.queue.queue_url.get_secret_value()), operator, settings.queue.topic
    )
    stack.push_async_callback(queue.close)
    await queue.open()
    return queue
