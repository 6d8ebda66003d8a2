"""Logs and metrics."""

import contextlib
import logging
import sys
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("model_registry_requests_total", "Requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "model_registry_request_seconds",
    "From the first byte of the request to the last of the answer.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600),
)
IN_FLIGHT = Gauge("model_registry_requests_in_flight", "Requests being answered.")
BYTES_IN = Counter("model_registry_received_bytes_total", "Bytes of request bodies.")
BYTES_OUT = Counter("model_registry_sent_bytes_total", "Bytes of response bodies.")


def _write(line: str) -> None:
    # A log that nobody reads any more is no reason to fail a request.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")


class _Events:
    """Where our own events go as they are rendered. By way of the standard library each would cost twice as much, and
    every request is one."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        _write(line)

    debug = info = warning = error = critical = exception = msg


class _Records(logging.Handler):
    """Where those of libraries go."""

    def emit(self, record: logging.LogRecord) -> None:
        _write(self.format(record))


def configure_logging(level: str, log_format: str) -> None:
    """One event a line on standard error, ours and the libraries' alike: for people, or as JSON for collectors."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.add_logger_name,
    ]
    renderers: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [_for_people()]
    )
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Events,
    )
    handler = _Records()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _without_colour],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    # Libraries that would log addresses, signatures or every step of theirs; and a second line for each request.
    for name in ("uvicorn.access", "botocore", "aiobotocore", "aioboto3", "asyncio", "urllib3", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _for_people() -> Any:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        repr_native_str=True,
        # Without the values of local variables, which hold secrets.
        exception_formatter=structlog.dev.plain_traceback,
    )


def _without_colour(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.pop("color_message", None)  # uvicorn's own form of the same message, for terminals
    return event
