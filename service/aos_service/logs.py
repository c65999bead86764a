"""Logs: one pipeline for ours and the libraries', to stderr, without secrets.

JSON lines when nobody watches a terminal, coloured text otherwise. Everything that goes out passes
`aos_service.redaction`.
"""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from aos_service.redaction import redact

_LEVELS = ("debug", "info", "warning", "error", "critical")
# These log every statement or request at level info: more than the reader of a service's log wants.
_CHATTY = (
    "alembic.runtime.plugins",
    "sqlalchemy.engine",
    "sqlalchemy.pool",
    "httpx",
    "httpcore",
    "websockets",
)


def configure_logs(program: str, *, level: str = "info", json: bool | None = None) -> None:
    """Send every log record of this process to stderr, as JSON lines or (on a terminal) as text.

    `program` stands in every record. `json` None means: JSON unless stderr is a terminal. Calling it again
    replaces the earlier configuration. Start uvicorn with `log_config=None`, or it puts handlers of its own
    back.

    Raises:
        ValueError: for a level other than debug, info, warning, error, critical.
    """
    if level not in _LEVELS:
        raise ValueError(f"log level {level!r} is unknown: choose one of {', '.join(_LEVELS)}")
    as_json = not sys.stderr.isatty() if json is None else json

    def name_program(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["program"] = program
        event.pop("color_message", None)  # uvicorn's second copy of its message
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        name_program,
    ]
    _configure_structlog(shared)
    _configure_stdlib(shared, level.upper(), as_json=as_json)


def _configure_structlog(shared: list[Processor]) -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # loggers made at import time must see this configuration
    )


def _configure_stdlib(shared: list[Processor], level: str, *, as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact,
                _renderer(as_json=as_json),
            ],
        )
    )
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _renderer(*, as_json: bool) -> Processor:
    if as_json:
        return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    # A plain traceback: the pretty ones show local variables, and those hold secrets.
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
