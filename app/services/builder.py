"""The thread of each worker that builds extracts, and the command's loop. Any worker may build any extract."""

import threading
from contextlib import suppress

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from app.database import BUILDERS, Database
from app.errors import RegistryError
from app.security.keys import Keyring
from app.services.building import READERS, build_next
from app.settings import Settings

LOOK_EVERY = 5.0
"""Seconds between looks for what others left behind. What this worker approved it begins at once."""


class Builder:
    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._settings, self._keyring = settings, keyring
        self._something, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="extract-builder", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something waits to be built."""
        self._something.set()

    def stop(self) -> None:
        """End after the chunk that is being written; another worker begins anew."""
        self._stop.set()
        self._something.set()
        if self._thread is not None:
            self._thread.join(timeout=20)

    def _run(self) -> None:
        on_sqlite = make_url(self._settings.database_url).get_backend_name() == "sqlite"
        own = self._settings.model_copy(update={"pool_size": READERS + 1 if on_sqlite else BUILDERS})
        with Database(own, for_server=True) as database:
            while not self._stop.is_set():
                with suppress(SQLAlchemyError, RegistryError):  # the database is away: look again
                    while build_next(database, self._keyring, self._stop.is_set) and not self._stop.is_set():
                        pass
                self._something.wait(LOOK_EVERY)
                self._something.clear()
