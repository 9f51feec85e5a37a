"""A registry called in the same process, without a server, for benches that make many thousand requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app import schema
from app.database import Database
from app.main import create_app
from app.security.keys import new_key_file, write_key_file
from tests.direct import DirectClient
from tests.postgres import new_database, postgres_server, settings_of
from tests.world import Registry


@contextmanager
def registry_of(engine: str, folder: Path) -> Iterator[Registry]:
    """A registry called in the process, on a database of its own."""
    key_file = folder / "keys.json"
    write_key_file(key_file, new_key_file(demo=True))
    with _url(engine, folder) as url:
        own = settings_of(url, key_file)
        with Database(own) as database:
            schema.upgrade(database)
            app = create_app(own)
            with DirectClient(app) as client:
                yield Registry(app, client, database)


@contextmanager
def _url(engine: str, folder: Path) -> Iterator[str]:
    if engine == "sqlite":
        yield f"sqlite:///{folder / 'registry.db'}"
        return
    with postgres_server() as server, new_database(server) as url:
        yield url
