"""Logs and metrics."""

import logging
import sys
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("model_registry_requests_total", "Requests that have ended.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "model_registry_request_seconds",
    "Seconds from the first byte of a request to the last byte of its response.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600),
)
IN_FLIGHT = Gauge("model_registry_requests_in_flight", "Requests in progress.")
BYTES_IN = Counter("model_registry_received_bytes_total", "Bytes of request bodies.")
BYTES_OUT = Counter("model_registry_sent_bytes_total", "Bytes of response bodies.")


def configure_logging(level: str, log_format: str) -> None:
    """Log one event per line to standard error, including those of libraries: as text for people, or as JSON."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    as_json = log_format == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                *shared,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                _without_colour,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([structlog.processors.format_exc_info] if as_json else []),
                structlog.processors.JSONRenderer() if as_json else _for_people(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    # Libraries that log addresses, signatures or each of their steps, and uvicorn's own line for each request.
    for name in ("uvicorn.access", "botocore", "aiobotocore", "aioboto3", "asyncio", "urllib3", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _for_people() -> Any:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        repr_native_str=True,
        # Without the values of local variables, which can be secrets.
        exception_formatter=structlog.dev.plain_traceback,
    )


def _without_colour(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.pop("color_message", None)  # uvicorn's copy of the message, for terminals
    return event
