"""The `registry` command. Imports wait until a command runs, so that `--help` is quick."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands import ask_password, reason_of
from app.commands import audit as audit_commands
from app.commands.accounts import client_app, grant_app, user_app
from app.commands.backup import app as backup_app
from app.commands.deliver import deliver
from app.commands.doctor import doctor
from app.commands.extracts import app as extracts_app
from app.commands.keys import keys_app
from app.commands.migrate import migrate
from app.commands.protocol import app as protocol_app
from app.commands.queries import app as queries_app
from app.commands.retries import app as retries_app
from app.commands.vault import app as vault_app

if TYPE_CHECKING:
    import uvicorn

    from app.database import Database
    from app.settings import Settings

app = typer.Typer(
    help="Research Registry: run it, set it up, check it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print local variables, which may be secrets
)
app.add_typer(audit_commands.app, name="audit")
app.add_typer(user_app, name="user")
app.add_typer(client_app, name="client")
app.add_typer(grant_app, name="grant")
app.add_typer(keys_app, name="keys")
app.add_typer(protocol_app, name="protocol")
app.add_typer(queries_app, name="queries")
app.add_typer(extracts_app, name="extracts")
app.add_typer(retries_app, name="retries")
app.add_typer(backup_app, name="backup")
app.add_typer(vault_app, name="vault")
app.command()(deliver)
app.command()(doctor)
app.command()(migrate)

INSUFFICIENT_PRIVILEGE = "42501"
"""SQLSTATE of PostgreSQL for what a role may not do."""

PASSTHROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command()
def serve(
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes; on SQLite use one.")] = 1,
) -> None:
    """Serve the API. Settings come from REGISTRY_... variables."""
    from app import schema
    from app.database import Database
    from app.database_role import require_second_wall, require_vault_wall
    from app.security.keys import load_keyring
    from app.services.operations import vault_care
    from app.settings import Settings

    settings = Settings()
    keyring = load_keyring(settings)
    with Database(settings, for_server=True) as database:
        schema.require_head(database)
        schema.require_vault_head(database)
        database.require_apart()
        database.require_own_sessions()
        database.require_durable()
        require_second_wall(database, settings)
        require_vault_wall(database, settings)
        database.require_room(workers)
        vault_care.require_own_keys(database, keyring)
    _require_free(host, port)
    typer.echo(f"Serving on http://{host}:{port} with {workers} worker(s); stop with Ctrl-C.")
    with _shared_metrics() if settings.metrics_token is not None and workers > 1 else nullcontext():
        _serve(host, port, workers)


def _require_free(host: str, port: int) -> None:
    """Look whether the address can be listened on. If not, systemd starts the server again, as at a restart the one
    before may still have it."""
    from uvicorn.config import STARTUP_FAILURE

    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        typer.echo(f"Cannot listen on {host}:{port} ({error.strerror}). Look at --host and --port.", err=True)
        raise typer.Exit(STARTUP_FAILURE) from None


@contextmanager
def _shared_metrics() -> Iterator[None]:
    """A folder in which the workers add up their metrics. Named before any of them imports the Prometheus client."""
    with tempfile.TemporaryDirectory(prefix="registry-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def _serve(host: str, port: int, workers: int) -> None:
    import uvicorn

    from app.web.connection import HTTP, LOOP
    from app.web.logs import OTHERS

    application = "app.main:create_app"
    options: dict[str, Any] = {
        "factory": True,
        "host": host,
        "port": port,
        "access_log": False,
        "server_header": False,
        "http": HTTP,
        "loop": LOOP,
        "timeout_graceful_shutdown": 25,
        "timeout_worker_healthcheck": 30,  # on a busy machine a new worker takes longer than uvicorn's 5 s to say so
        "log_level": "warning",
        "log_config": OTHERS,
    }
    if workers == 1:
        _stop_on_hang_up()
        uvicorn.run(application, **options)
    else:
        _supervise(uvicorn.Config(application, workers=workers, **options))


def _stop_on_hang_up() -> None:
    """Treat SIGHUP as SIGTERM: requests in flight are finished. Under nohup it stays ignored."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def _supervise(config: uvicorn.Config) -> None:
    """Run workers until a signal stops them. If one refuses to start, all are stopped, with an exit code that makes
    systemd start the server again."""
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    supervisor = Multiprocess(config, sockets=[config.bind_socket()])
    supervisor.run()
    if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
        raise typer.Exit(STARTUP_FAILURE)


@app.command()
def init(
    admin: Annotated[str, typer.Option(help="Username of the first admin.")] = "admin",
    organisation: str = "Registry office",
) -> None:
    """Make the key file, the tables and the first admin, each if it is missing."""
    from app import schema
    from app.database import Database
    from app.services.operations import vault_care
    from app.settings import Settings

    settings = Settings()
    with Database(settings) as database:
        vault_care.require_not_lost(database)
        if not os.path.exists(settings.key_file):  # or its folder is closed to this user: then it cannot be made
            _make_keys(database, settings)
        schema.upgrade(database)
        made = _first_admin(database, settings, admin, organisation)
    typer.echo(f"Ready. Sign in as {admin} at POST /v1/auth/sessions." if made else "The database is up to date.")


def _make_keys(database: Database, settings: Settings) -> None:
    """Make the key file, unless the database has accounts: with new keys no participant would be found by the label,
    and people would be enrolled twice. Raises KeysUnusable."""
    from sqlmodel import select

    from app import schema
    from app.models.account import Account
    from app.security.keys import KeysUnusable, new_key_file, write_key_file

    with database.read() as session:
        if schema.current(database) is not None and session.exec(select(Account.id).limit(1)).first() is not None:
            raise KeysUnusable(
                f"Key file {settings.key_file} is not there, and this database was used with one. Restore it from its "
                "copy: with other keys no label could be read or found."
            )
    write_key_file(settings.key_file, new_key_file(demo=settings.environment == "demo"))
    typer.echo(f"Made {settings.key_file}. Keep a copy apart from the database: without it the labels are lost.")


def _first_admin(database: Database, settings: Settings, username: str, organisation: str) -> bool:
    from sqlmodel import select

    from app.models.account import Account, GrantCreate, Role, UserCreate
    from app.security.passwords import Passwords
    from app.services.identity import accounts, grants

    with database.write() as session:
        if session.exec(select(Account.id).where(Account.login == username)).first() is not None:
            return False
        password = ask_password(username, "REGISTRY_ADMIN_PASSWORD")
        body = UserCreate(username=username, display_name=username, organisation=organisation, password=password)
        account = accounts.create_user(session, None, Passwords(settings), body)
        grants.grant(session, None, account, GrantCreate(role=Role.admin))
    return True


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=0, max=65_535)] = 8000,
    data: Annotated[Path, typer.Option(help="Folder of the demo's database, keys and demo.json.")] = Path("demo-data"),
    leave: Annotated[bool, typer.Option("--exit", help="Stop when everything is loaded.")] = False,
) -> None:
    """Fill a registry on SQLite with synthetic data, which three site apps post, and serve it."""
    from app.demo.run import run

    raise typer.Exit(run(data, port, leave))


@app.command(context_settings=PASSTHROUGH)
def test(context: typer.Context) -> None:
    """Run the tests, on SQLite and on PostgreSQL. Further arguments go to pytest."""
    from app.schema import ROOT

    # One more than processors, as some tests wait. Each costs a quarter of a minute of one: it imports and collects
    # everything, makes every route and statement ready, and has a PostgreSQL of its own.
    processes = min(4, 1 + (os.cpu_count() or 1))
    # In the order of their names: by default files of few tests come last, and those are the slow ones.
    # A process that died is not replaced: the new one would get the same test, and die of it too.
    order = ["--dist=loadfile", "--no-loadscope-reorder", "--max-worker-restart=0"]
    side_by_side = [f"--numprocesses={processes}", *order]
    command = [sys.executable, "-m", "pytest", *side_by_side, *context.args]
    compiled_once = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    raise typer.Exit(subprocess.call(command, cwd=ROOT, env=compiled_once))  # noqa: S603


def main() -> None:
    """Entry point. Known failures of a deployment end with one sentence and exit code 2, without a traceback."""
    from pydantic import ValidationError
    from sqlalchemy.exc import DatabaseError, OperationalError, ProgrammingError

    from app.errors import CannotGoOn, RegistryError
    from app.outages import reason
    from app.settings import SecretsFolderMissing

    os.umask(0o077)  # keys and an embedded database are for their owner only
    try:
        app()
    except (CannotGoOn, SecretsFolderMissing) as refused:
        typer.echo(str(refused), err=True)
        sys.exit(2)
    except OperationalError as error:
        typer.echo(reason_of(error), err=True)
        sys.exit(2)
    except ProgrammingError as forbidden:
        if getattr(forbidden.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        typer.echo(
            "The database's role may not do this. Commands need that of the tables' owner: set "
            "REGISTRY_OWNER_DATABASE_URL (and of a vault apart, REGISTRY_OWNER_VAULT_URL).",
            err=True,
        )
        sys.exit(2)
    except DatabaseError as damaged:
        if reason(damaged) is None:
            raise
        typer.echo(reason_of(damaged), err=True)
        sys.exit(2)
    except RegistryError as refused:
        faults = [f"{fault.pointer.rpartition('/')[2]}: {fault.message}" for fault in refused.faults]
        typer.echo("\n".join([refused.detail(), *faults]), err=True)
        sys.exit(2)
    except ValidationError as refused:
        for fault in refused.errors(include_input=False):
            name = "_".join(str(part) for part in fault["loc"]).upper()
            message = fault["msg"].removeprefix("Value error, ")
            typer.echo(f"REGISTRY_{name}: {message}" if name else message, err=True)
        sys.exit(2)
