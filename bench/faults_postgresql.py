"""Faults of PostgreSQL while a registry uses it."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from bench.postgres_cluster import OWNER, Cluster, cluster, give, serving
from bench.scenes import Place, Scene, filled, small_disk
from tests.server import LiveServer

HOLD_SECONDS, VANISHED_SECONDS = 4.0, 25.0


@contextmanager
def restart(mode: str, folder: Path) -> Iterator[Scene]:
    """PostgreSQL is restarted; `immediate` is a crash, with recovery."""
    with cluster(folder / "pg") as one:
        yield Scene(folder, one.url, lambda _server: one.control("restart", "-m", mode))


@contextmanager
def cut(folder: Path) -> Iterator[Scene]:
    """Every connection of the registry is ended, ten times in a second."""
    with cluster(folder / "pg") as one:

        def strike(_server: LiveServer) -> None:
            with _superuser(one) as admin:
                for _ in range(10):
                    _end_connections(admin)
                    time.sleep(0.1)

        yield Scene(folder, one.url, strike)


@contextmanager
def pool(folder: Path) -> Iterator[Scene]:
    """Somebody locks a table for long, so that each worker's one connection waits, and everybody else for that."""
    with cluster(folder / "pg") as one:

        def strike(server: LiveServer) -> None:
            owner = server.environment["REGISTRY_OWNER_DATABASE_URL"].replace("+psycopg", "")
            with psycopg.connect(owner) as other:
                other.execute("LOCK TABLE audit_chain IN ACCESS EXCLUSIVE MODE")
                time.sleep(HOLD_SECONDS)

        yield Scene(folder, one.url, strike, {"REGISTRY_POOL_SIZE": "1", "REGISTRY_POOL_TIMEOUT_SECONDS": "1"})


@contextmanager
def connections(folder: Path) -> Iterator[Scene]:
    """PostgreSQL takes no more connections of the registry, after those that it had were cut."""
    with cluster(folder / "pg") as one:

        def strike(_server: LiveServer) -> None:
            with _superuser(one) as admin:
                admin.execute("ALTER ROLE registry_test_server CONNECTION LIMIT 0")
                _end_connections(admin)
                time.sleep(HOLD_SECONDS)
                admin.execute("ALTER ROLE registry_test_server CONNECTION LIMIT -1")

        yield Scene(folder, one.url, strike)


@contextmanager
def disk(folder: Path) -> Iterator[Scene]:
    """The disk of the tables is full."""
    with (
        small_disk(folder / "disk", 192) as place,
        _elsewhere(folder) as log_folder,
        cluster(place / "pg", log_folder) as one,
    ):
        yield Scene(folder, one.url, partial(_fill, place, HOLD_SECONDS))


def _fill(place: Path, seconds: float, _server: LiveServer) -> None:
    with filled(place):
        time.sleep(seconds)


@contextmanager
def _elsewhere(folder: Path) -> Iterator[Path]:
    give(folder / "wal")
    yield folder / "wal"


@contextmanager
def log_disk(folder: Path) -> Iterator[Scene]:
    """The disk of the write-ahead log is full: PostgreSQL stops itself, and its operator makes room and starts it."""
    with small_disk(folder / "disk", 128) as place:
        give(place / "wal")
        with cluster(folder / "pg", place / "wal") as one:

            def strike(_server: LiveServer) -> None:
                with filled(place):
                    _until(lambda: _stopped_for_want_of_room(one))
                one.start()

            yield Scene(folder, one.url, strike)


def _stopped_for_want_of_room(one: Cluster) -> bool:
    """Each look asks for the next segment, which would come by itself after 16 MiB."""
    with suppress(psycopg.Error), _superuser(one) as admin:
        admin.execute("SELECT pg_switch_wal()")
    return not one.running


@contextmanager
def standby(folder: Path) -> Iterator[Scene]:
    """The synchronous standby is away for a while: no commit is acknowledged until it is back."""
    with _pair(folder) as (first, second):

        def strike(_server: LiveServer) -> None:
            second.stop("immediate")
            time.sleep(HOLD_SECONDS)
            second.start()

        yield Scene(folder, first.url, strike)


@contextmanager
def failover(folder: Path) -> Iterator[Scene]:
    """The primary is lost, and its synchronous standby promoted. Before the next time a new standby takes the place of
    the lost one."""
    with _pair(folder) as pair:
        primary, follower = pair

        def strike(_server: LiveServer) -> None:
            nonlocal primary, follower
            if not follower.running:
                _follow(primary, follower)
                time.sleep(2)
            primary.kill()
            time.sleep(1)
            follower.run("pg_ctl", "promote", "--pgdata", str(follower.data), "-w")
            _wait_for(follower, "")  # for nobody yet, or it would wait for ever
            primary, follower = follower, primary

        hosts = "&".join(f"host={one.address}" for one in pair)
        yield Scene(folder, f"postgresql+psycopg://{OWNER}@/postgres?{hosts}&target_session_attrs=read-write", strike)


@contextmanager
def _pair(folder: Path) -> Iterator[tuple[Cluster, Cluster]]:
    """A primary and its synchronous standby."""
    with cluster(folder / "pg") as first:
        second = Cluster(folder / "pg", "second")
        try:
            _follow(first, second)
            yield first, second
        finally:
            if second.running:
                second.stop("immediate")


def _follow(primary: Cluster, follower: Cluster) -> None:
    shutil.rmtree(follower.data, ignore_errors=True)
    follower.copy_of(primary, "follower")
    follower.start()
    _wait_for(primary, "follower")


def _wait_for(primary: Cluster, names: str) -> None:
    """Whose acknowledgement each commit needs from now on."""
    with _superuser(primary) as admin:
        admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'".encode())
        admin.execute("SELECT pg_reload_conf()")


def _superuser(one: Cluster) -> "psycopg.Connection[Any]":
    return psycopg.connect(host="127.0.0.1", port=one.port, user=OWNER, dbname="postgres", autocommit=True)


def _end_connections(admin: "psycopg.Connection[Any]") -> None:
    admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'registry%'")


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError("PostgreSQL did not do what this fault waits for")
        time.sleep(0.1)


@contextmanager
def vanish(folder: Path) -> Iterator[Scene]:
    """PostgreSQL's machine is not there for a while: nothing it is sent arrives, and nothing says so. Needs root."""
    namespace, link = f"registry-{os.getpid()}", f"reg{os.getpid() % 10**6}"
    inside = ("ip", "-n", namespace)
    with ExitStack() as made:
        _ip("ip", "netns", "add", namespace)
        made.callback(_ip, "ip", "netns", "delete", namespace)  # and with it both ends of the link
        _ip("ip", "link", "add", link, "type", "veth", "peer", "name", "inside", "netns", namespace)
        _ip("ip", "address", "add", "10.213.77.1/30", "dev", link)
        _ip("ip", "link", "set", link, "up")
        _ip(*inside, "address", "add", "10.213.77.2/30", "dev", "inside")
        _ip(*inside, "link", "set", "inside", "up")
        one = made.enter_context(serving(Cluster(folder / "pg", host="10.213.77.2", namespace=namespace)))

        def strike(_server: LiveServer) -> None:
            _ip(*inside, "link", "set", "inside", "down")
            time.sleep(VANISHED_SECONDS)
            _ip(*inside, "link", "set", "inside", "up")

        yield Scene(folder, one.url, strike)


def _ip(*command: str) -> None:
    subprocess.run(command, check=True)


FAULTS: Mapping[str, Place] = {
    "restart": partial(restart, "fast"),
    "crash": partial(restart, "immediate"),
    "cut": cut,
    "pool": pool,
    "connections": connections,
    "disk": disk,
    "log-disk": log_disk,
    "standby": standby,
    "failover": failover,
    "vanish": vanish,
}
