import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from aos_service.logs import configure_logs

URL = "postgres://user:5cff9c0e@host/db"
CONNECTING = f"connecting to {URL}"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    chatty = {name: logging.getLogger(name).level for name in ("sqlalchemy.engine", "httpx")}
    yield
    root.handlers, root.level = handlers, level
    for name, before in chatty.items():
        logging.getLogger(name).setLevel(before)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_a_record_is_one_line_of_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("operator", json=True)
    structlog.get_logger("aos_operator.link").info("connected", attempt=2, dispatcher="0x1")
    [record] = records(capsys)
    time = datetime.fromisoformat(record.pop("timestamp"))
    assert time.utcoffset() == datetime.now(UTC).utcoffset()
    assert record == {
        "event": "connected",
        "attempt": 2,
        "dispatcher": "0x1",
        "level": "info",
        "logger": "aos_operator.link",
        "program": "operator",
    }


def test_loggers_made_before_the_configuration_follow_it(capsys: pytest.CaptureFixture[str]) -> None:
    logger = structlog.get_logger("early")
    configure_logs("dispatcher", json=True)
    logger.warning("late")
    configure_logs("dispatcher", level="error", json=True)
    logger.warning("too quiet")
    assert [record["event"] for record in records(capsys)] == ["late"]


def test_context_variables_join_every_record(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("dispatcher", json=True)
    with structlog.contextvars.bound_contextvars(job_id="99"):
        structlog.get_logger().info("ours")
        logging.getLogger("alembic").info("theirs %s", 1)
    assert [(record["event"], record["job_id"]) for record in records(capsys)] == [
        ("ours", "99"),
        ("theirs 1", "99"),
    ]


def test_libraries_go_through_the_same_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("dispatcher", json=True)
    logging.getLogger("uvicorn.access").info('"GET %s"', "/ws?token=5cff9c0e")
    logging.getLogger("uvicorn.error").info(
        "started", extra={"color_message": "\x1b[1mstarted", "api_token": "5cff9c0e"}
    )
    access, error = records(capsys)
    assert access["event"] == '"GET /ws?token=***"'
    assert error["api_token"] == "***"
    assert "color_message" not in error


def test_chatty_libraries_are_heard_from_warning_up(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("dispatcher", level="debug", json=True)
    for name in ("sqlalchemy.engine", "httpx"):
        logging.getLogger(name).info("SELECT 1")
        logging.getLogger(name).warning("slow")
    assert [record["event"] for record in records(capsys)] == ["slow", "slow"]


def test_warnings_are_records(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("dispatcher", json=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        configure_logs("dispatcher", json=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    [record] = records(capsys)
    assert record["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in record["event"]


@pytest.mark.parametrize("as_json", [True, False])
def test_no_secret_in_values_messages_and_exceptions(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    configure_logs("operator", json=as_json)
    logger = structlog.get_logger()
    logger.info(CONNECTING, url=URL, signer_key="5cff9c0e", nested={"password": "5cff9c0e"})
    try:
        raise ConnectionError(f"cannot reach {URL}")
    except ConnectionError:
        logger.exception("failed")
        logging.getLogger("asyncio").exception("failed for %s", URL)
    err = capsys.readouterr().err
    assert err.count("ConnectionError: cannot reach postgres://user:***@host/db") == 2
    assert "5cff9c0e" not in err


def test_text_without_a_terminal_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("operator", json=False)
    structlog.get_logger().info("connected")
    err = capsys.readouterr().err
    assert "connected" in err
    assert "\x1b" not in err


def test_json_is_the_default_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("operator")
    structlog.get_logger().info("connected")
    assert records(capsys)[0]["event"] == "connected"


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="'loud' is unknown: choose one of debug, info"):
        configure_logs("operator", level="loud")
