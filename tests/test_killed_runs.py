"""A run of the tests that is killed leaves no PostgreSQL behind."""

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import make_url

from tests.forked import forks
from tests.postgres import postgres_server


def _a_run(told: Connection) -> None:
    with postgres_server() as url:
        told.send(url)
        Event().wait()


@pytest.mark.skipif("REGISTRY_TEST_POSTGRES_URL" in os.environ, reason="the run brings up no server")
def test_postgresql_and_its_data_go_with_a_run_that_is_killed() -> None:
    here, there = forks.Pipe()
    run = forks.Process(target=_a_run, args=(there,), daemon=True)
    run.start()
    data = Path(str(make_url(here.recv()).query["host"]))
    server = int((data / "postmaster.pid").read_text().split()[0])
    os.kill(server, 0)
    run.kill()
    deadline = time.monotonic() + 60
    while data.parent.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not data.parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
