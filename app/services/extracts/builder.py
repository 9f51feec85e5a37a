"""The thread of each worker that builds extracts. Any worker may build any extract."""

import threading
from contextlib import suppress

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from app.database import BUILDERS, Database
from app.errors import RegistryError
from app.security.keys import Keyring
from app.services.extracts.building import READERS, build_next
from app.settings import Settings

LOOK_EVERY = 5.0
"""Seconds between two searches for extracts that other workers left. One that this worker approved is begun at once."""


class Builder:
    """Builds extracts in a thread, with a pool of connections of its own."""

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._settings, self._keyring = settings, keyring
        self._woken, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="extract-builder", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Tell the thread that an extract waits to be built."""
        self._woken.set()

    def stop(self) -> None:
        """Stop after the chunk that is being written. Another worker begins the build again."""
        self._stop.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(timeout=20)

    def _run(self) -> None:
        on_sqlite = make_url(self._settings.database_url).get_backend_name() == "sqlite"
        own = self._settings.model_copy(update={"pool_size": READERS + 1 if on_sqlite else BUILDERS})
        with Database(own, for_server=True) as database:
            while not self._stop.is_set():
                with suppress(SQLAlchemyError, RegistryError):  # the database is unavailable: search again
                    while build_next(database, self._keyring, self._stop.is_set) and not self._stop.is_set():
                        pass
                self._woken.wait(LOOK_EVERY)
                self._woken.clear()
