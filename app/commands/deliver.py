"""`registry deliver`: the worker that sends notifications."""

import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from app.services.notifications.delivering import Courier

OVERDUE_SECONDS = 60
"""Seconds between two searches for clocks of adverse events that have become overdue."""


def deliver(
    once: Annotated[bool, typer.Option("--once", help="Send what is due, and stop.")] = False,
    every: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between two searches for messages.")] = 2.0,
) -> None:
    """Send notifications until stopped. On PostgreSQL any number of these may run, on SQLite one."""
    from app import schema
    from app.database import Database
    from app.database_role import require_second_wall
    from app.security.keys import load_keyring
    from app.services.notifications.delivering import Courier
    from app.settings import Settings
    from app.web import logs

    settings = Settings()
    logs.configure(settings)
    keyring = load_keyring(settings)
    with Database(settings, for_server=True) as database:
        schema.require_head(database)
        require_second_wall(database, settings)
        courier = Courier(database, keyring, settings)
        if once:
            courier.look_for_overdue()
            while courier.deliver():
                pass
            return
        stopped = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stopped.set())
        typer.echo("Delivering; stop with Ctrl-C.")
        run(courier, stopped, every)


def run(courier: "Courier", stopped: threading.Event, every: float) -> None:
    """Send what is due and wait, again and again, until stopped. A batch that was begun is finished; an unavailable
    database is tried again."""
    search_at = 0.0
    while not stopped.is_set():
        if time.monotonic() >= search_at and _surviving(courier.look_for_overdue) is not None:
            search_at = time.monotonic() + OVERDUE_SECONDS
        if not _surviving(courier.deliver):
            stopped.wait(every)


def _surviving(step: Callable[[], int]) -> int | None:
    """The result of a step, or None if the database is unavailable."""
    import structlog
    from sqlalchemy.exc import SQLAlchemyError

    from app.errors import DatabaseUnavailable
    from app.outages import reason

    log: Any = structlog.get_logger()
    try:
        return step()
    except (SQLAlchemyError, DatabaseUnavailable) as failed:
        why = reason(failed) if isinstance(failed, SQLAlchemyError) else None
        log.error("delivering_failed", kind=type(failed).__name__, reason=why)
        return None
