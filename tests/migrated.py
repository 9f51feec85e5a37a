"""Databases that are migrated already: copies of one, as migrating each takes a third of a second."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from app import schema
from app.database import Database
from app.settings import Settings
from tests.postgres import as_server, new_database

kept = ExitStack()
"""What the templates live in, until the run ends."""


@cache
def template(server_url: str | None) -> str:
    """A migrated and otherwise empty database to be copied: in a file, or on this PostgreSQL server."""
    if server_url is None:
        path = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="registry-migrated-"))) / "registry.db"
        settings = Settings(environment="demo", database_url=f"sqlite:///{path}")
    else:
        url = kept.enter_context(new_database(server_url))
        settings = Settings(environment="demo", database_url=as_server(url), owner_database_url=url)
    with Database(settings) as database:
        schema.upgrade(database)
    return settings.owner_database_url or settings.database_url


@contextmanager
def migrated_database(server_url: str | None, path: Path) -> Iterator[str]:
    """The URL of a copy: this file, or a database on the PostgreSQL server. There the server's role has no right on the
    database itself yet; every other comes with it."""
    if server_url is None:
        shutil.copy(template(None).removeprefix("sqlite:///"), path)
        path.chmod(0o600)
        yield f"sqlite:///{path}"
    else:
        with new_database(server_url, template(server_url)) as url:
            yield url
