"""The `dispatcher` command: run the service, and manage its projects, operators and models."""

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvicorn

from aos_dispatcher import token_commands
from aos_dispatcher.app import create_app
from aos_dispatcher.console import Config, open_database, said_plainly, with_database
from aos_dispatcher.draining import Draining
from aos_dispatcher.errors import DispatcherError
from aos_dispatcher.extras import chain_extra
from aos_dispatcher.http_bounds import IDLE_S, allow_connections, bounded_protocol
from aos_dispatcher.operators import list_operators, pin_model, register_operator
from aos_dispatcher.projects import create_project
from aos_dispatcher.quota_commands import limit as project_limit
from aos_dispatcher.server import Server
from aos_dispatcher.service import assemble
from aos_dispatcher.settings import Chain, DispatcherSettings, load_policy
from aos_dispatcher.tls import server_options
from aos_dispatcher.websocket import OperatorProtocol
from aos_protocol.calibration import Calibration
from aos_protocol.canonical import parse
from aos_protocol.fields import parse_message
from aos_protocol.identity import checksum_address
from aos_protocol.messages import ModelOffer
from aos_service.database import database_url, ensure_database
from aos_service.hardening import keep_memory_private
from aos_service.keys import load_signer
from aos_service.logs import configure_logs
from aos_service.revisions import migrate
from aos_service.settings import load_settings
from aos_service.tracing import exporting

log = structlog.get_logger()

app = typer.Typer(
    name="dispatcher",
    no_args_is_help=True,
    help="The AOS dispatcher.\n\nA first start: dispatcher migrate -c config-dispatcher.yaml; dispatcher project create "
    "my-project -c ...; dispatcher operator add 0x... -c ...; dispatcher run -c config-dispatcher.yaml",
    pretty_exceptions_enable=False,
)
project = typer.Typer(no_args_is_help=True, help="Projects, who submit jobs.")
operator = typer.Typer(no_args_is_help=True, help="Operators, who may connect and run jobs.")
model = typer.Typer(no_args_is_help=True, help="What the names of models stand for.")
project.command("limit")(project_limit)
app.add_typer(project, name="project")
app.add_typer(token_commands.app, name="token")
app.add_typer(operator, name="operator")
app.add_typer(model, name="model")

_SHUTDOWN_S = 5


@app.command()
def run(
    config: Config,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve HTTP and /ws until SIGTERM or Ctrl-C. Example: dispatcher run -c config-dispatcher.yaml."""
    keep_memory_private()
    configure_logs("dispatcher", level=log_level)
    with said_plainly():
        settings = load_settings(config, DispatcherSettings)
        identity = settings.identity
        signer = load_signer(
            identity.signer_key,
            keystore=identity.keystore,
            password_file=identity.keystore_password_file,
            file=config,
            key_name="identity.signer_key",
        )
        policy = load_policy(settings, config)
        asyncio.run(_migrate(settings))
        if settings.chain.rpc_url is not None:
            _check_chain(settings.chain)
        tls = server_options(settings.listen.tls)
        dispatcher = assemble(settings, open_database(settings), signer, policy)
    log.info(
        "dispatcher starts", address=signer.address, host=settings.listen.host, port=settings.listen.port
    )
    dispatcher.enclaves.announce()
    allow_connections(settings.limits)
    served = uvicorn.Config(
        create_app(dispatcher),
        host=settings.listen.host,
        port=settings.listen.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=bounded_protocol(settings.limits),
        **{"ws": OperatorProtocol} | tls,
        # Slightly above the frame limit, so that an oversized frame is refused with a reason before the connection is.
        ws_max_size=2 * settings.limits.frame_bytes,
        # Frames are mostly hex digits of hashes and proofs; deflating them costs more than it saves.
        ws_per_message_deflate=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    with ExitStack() as stack:
        with said_plainly():
            stack.enter_context(exporting("dispatcher", settings.telemetry.otlp_endpoint))
        stack.enter_context(suppress(KeyboardInterrupt))  # uvicorn raises it once more when all is done
        Server(served, Draining(dispatcher), drain=settings.listen.drain).run()


@app.command("migrate")
def migrate_database(
    config: Config,
    to: Annotated[
        str,
        typer.Option(help="The revision that the tables are brought to. An older one drops what came later."),
    ] = "head",
) -> None:
    """Create the database if it is missing, and bring its tables up to date. Dispatchers of the version before may serve meanwhile.

    Before going back to an older program: dispatcher migrate --to 0004 -c config.yaml, with the revision that it knows as its newest.
    """
    with said_plainly():
        asyncio.run(_migrate(load_settings(config, DispatcherSettings), to))
    typer.echo("the database is up to date" if to == "head" else f"the database is at revision {to}")


@project.command("create")
def project_create(
    name: Annotated[str, typer.Argument(help="The project's id: what jobs say in 'from'.")],
    config: Config,
    private: Annotated[bool, typer.Option("--private", help="Show its results to its token only.")] = False,
) -> None:
    """Create a project and print its API token, once. Example: dispatcher project create shop -c config.yaml."""
    token = with_database(config, lambda database: create_project(database, name, private=private))
    typer.echo(token)


@operator.command("add")
def operator_add(
    address: Annotated[str, typer.Argument(help="The operator's Ethereum address.")],
    config: Config,
) -> None:
    """Put an operator into the registry and print its number. Example: dispatcher operator add 0x1234... -c config.yaml."""
    with said_plainly():
        checked = checksum_address(address)
        if load_settings(config, DispatcherSettings).chain.rpc_url is not None:
            raise DispatcherError(
                "the registry is a contract: operators register themselves there, with: aos chain register"
            )
    typer.echo(str(with_database(config, lambda database: register_operator(database, checked))))


@operator.command("list")
def operator_list(config: Config) -> None:
    """Print every operator's number and address; of a contract's registry also the range."""
    with said_plainly():
        chain = load_settings(config, DispatcherSettings).chain
        lines = None if chain.rpc_url is None else _registered(chain)
    if lines is None:
        lines = [f"{number}\t{address}" for address, number in with_database(config, list_operators)]
    for line in lines:
        typer.echo(line)


def _check_chain(chain: Chain) -> None:
    with chain_extra():
        from aos_dispatcher.chain_registry import check_chain
    asyncio.run(check_chain(chain))


def _registered(chain: Chain) -> list[str]:
    with chain_extra():
        from aos_dispatcher.chain_registry import read_registry
    configure_logs("dispatcher", level="warning")  # what is printed is the list alone
    state = asyncio.run(read_registry(chain))
    return [f"{entry.number}\t{entry.operator}\t{entry.start}\t{entry.end}" for entry in state.entries]


@model.command("pin")
def model_pin(
    name: Annotated[str, typer.Argument(help="The model's name, as jobs give it.")],
    sha256: Annotated[str, typer.Argument(help="SHA-256 of the GGUF file, 64 lower-case hex digits.")],
    config: Config,
    job_type: Annotated[str, typer.Option(help="opml or tee.")] = "opml",
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="What its scores are judged by: the file that 'aos calibrate' wrote beside the model.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Let a model's name stand for this file from now on. The first operator to announce a name pins it otherwise.

    Without a calibration, answers of a model are scored, and every verdict is inconclusive.
    """
    with said_plainly():
        offer = parse_message(ModelOffer, {"name": name, "sha256": sha256})
        judged = None if calibration is None else _read_calibration(calibration)
    with_database(config, lambda database: pin_model(database, job_type, offer, judged))


def _read_calibration(file: Path) -> Calibration:
    try:
        document = parse(file.read_bytes())
    except OSError as error:
        raise DispatcherError(f"the calibration cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise DispatcherError(f"{file} is no calibration: it holds no JSON object")
    return Calibration.from_json(document)


async def _migrate(settings: DispatcherSettings, to: str = "head") -> None:
    url = database_url(settings.database.url.get_secret_value())
    await ensure_database(url)
    await migrate(url, "dispatcher", to)
