"""Runs a provider: first each thing that it needs is tried, in order, and then it is an operator until it is told to stop."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aos_cli.errors import CliError
from aos_cli.provider_backend import Provided
from aos_cli.provider_dispatcher import WrongServerKey, meet
from aos_cli.provider_hello import say_hello
from aos_cli.provider_secret import derive
from aos_cli.provider_settings import ProviderSettings, memory_file
from aos_cli.provider_steps import Steps
from aos_operator.backends.dialects import Source
from aos_operator.backends.protocol import Backend
from aos_operator.backends.router import Router
from aos_operator.backends.text import TextBackend
from aos_operator.embedded import opened
from aos_operator.embedded_queue import SqliteQueue
from aos_operator.embedded_store import SqliteStore
from aos_operator.errors import DispatcherRefused, OperatorError, WrongDispatcher
from aos_operator.registration_node import registering
from aos_operator.runner import Operator
from aos_operator.settings import Net, Node, NodeSettings, Tls
from aos_protocol.identity import Signer
from aos_service.tls import client_context


class ProviderStopped(CliError):
    """The provider cannot go on."""


@dataclass(frozen=True)
class Provider:
    """What a provider is run with: its settings, the backend of its model server, and the authorities (PEM) for a wss:// dispatcher.

    Models of this machine may register on `registration_port` of its loopback.
    """

    settings: ProviderSettings
    backend: Backend
    steps: Steps
    ca: Path | None = None
    registration_port: int | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set. Raises `CliError` with what to do when something that it needs is not there."""
        settings, steps = self.settings, self.steps
        steps.say("initialized", name=settings.name)
        signer = await asyncio.to_thread(derive, settings.user_secret.get_secret_value())
        steps.say("identity", operator=signer.address)
        steps.say("pinned dispatcher", pin=settings.server_key)
        steps.say("joining the dispatcher")
        dispatcher = await meet(settings.server_url, settings.pin, self._tls())
        steps.say("reached the dispatcher")
        steps.say("verified the dispatcher")
        backend = Provided(self.backend, settings.model, settings.name, settings.system_message)
        await say_hello(backend, settings, signer.address, steps)
        await self._serve(signer, dispatcher, backend, stop)

    async def _serve(self, signer: Signer, dispatcher: str, backend: Backend, stop: asyncio.Event) -> None:
        tls = Tls(ca=self.ca) if self._secure and self.ca is not None else None
        node = NodeSettings(
            net=Net(dispatcher_url=(self.settings.server_url,), tls=tls),
            node=Node(dispatcher_address=dispatcher),
        )
        router = Router()
        router.put("provider", backend)
        try:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(router.close)
                file = await stack.enter_async_context(opened(memory_file(signer.address), signer.address))
                store = SqliteStore(file)
                operator = Operator(node, signer, store, SqliteQueue(file), router, registry=None)
                if self.registration_port is not None:
                    await stack.enter_async_context(
                        registering(
                            self.registration_port,
                            store.instances,
                            router,
                            operator.look_again,
                            taken=lambda name: name == self.settings.model or operator.pinned(name),
                            ready=operator.welcomed,
                        )
                    )
                await _first_of(operator.run(stop), self._tell(operator, signer.address))
        except* OperatorError as group:
            raise _explained(group, self.settings) from None

    async def _tell(self, operator: Operator, address: str) -> None:
        await operator.welcomed.wait()
        self.steps.say("serving", model=self.settings.model, operator=address)

    @property
    def _secure(self) -> bool:
        return self.settings.server_url.startswith("wss:")

    def _tls(self) -> ssl.SSLContext | None:
        return client_context(self.ca) if self._secure else None


@asynccontextmanager
async def running(
    settings: ProviderSettings, steps: Steps, ca: Path | None, registration_port: int | None = None
) -> AsyncIterator[Provider]:
    """Give the provider of these settings, whose connections to the model server are closed in the end."""
    backend = TextBackend(
        Source("openai", settings.api_url, settings.api_key, {settings.model: settings.model})
    )
    try:
        yield Provider(settings, backend, steps, ca, registration_port)
    finally:
        await backend.close()


async def _first_of(main: Coroutine[Any, Any, None], beside: Coroutine[Any, Any, None]) -> None:
    """Run both until `main` ends."""
    async with asyncio.TaskGroup() as group:
        other = group.create_task(beside)
        await group.create_task(main)
        other.cancel()


def _explained(group: BaseExceptionGroup[OperatorError], settings: ProviderSettings) -> CliError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case WrongDispatcher():
            return WrongServerKey(
                f"{error} (serverUrl {settings.server_url}, serverKey {settings.server_key})"
            )
        case DispatcherRefused() if _POLICY in str(error):
            return ProviderStopped(
                f"{error}: it is `{_POLICY}: text` that takes whatever a model server shows"
            )
        case _:
            return ProviderStopped(str(error))


_POLICY = "verification.least_evidence"
"""The dispatcher's setting by which it refuses models that show too little of their answers; its refusal names it."""
