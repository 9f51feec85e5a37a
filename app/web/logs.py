"""Structured logs: one JSON object a line, with the request id; never bodies, query strings, tokens or identifiers."""

import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import structlog

from app.settings import Settings


class _Lines:
    """A log that cannot be written, as on a full disk, loses its lines but fails no request."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


def place_of(error: BaseException) -> str | None:
    """The file and line where an exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else None


class OfLibraries(logging.Formatter):
    """Writes the records of libraries, such as uvicorn, in the same form. Of an exception only class and place are
    logged, as its text may repeat what was sent."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        fields: dict[str, str | None] = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "timestamp": at,
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields |= {"kind": type(error).__name__, "place": place_of(error)}
        return json.dumps({**fields, "logger": record.name}, sort_keys=True)


OTHERS: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"lines": {"()": OfLibraries}},
    "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines"}},
    "root": {"handlers": ["lines"], "level": "WARNING"},
}
"""The logging configuration of uvicorn and all other libraries."""


def configure(settings: Settings) -> None:
    level = getattr(logging, settings.log_level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Lines(sys.stderr))),
        cache_logger_on_first_use=False,
    )
