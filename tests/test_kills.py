"""What was acknowledged survives the server's sudden death. The long run is `python -m bench.kills --kills 500`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.kills import disturb
from tests.conftest import ENGINES
from tests.postgres import as_server, new_database
from tests.server import LiveServer, running_server


@pytest.fixture(params=ENGINES)
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveServer]:
    """A served registry that nobody else uses."""
    if request.param == "sqlite":
        with running_server(tmp_path, f"sqlite:///{tmp_path / 'registry.db'}") as server:
            yield server
    else:
        with new_database(request.getfixturevalue("postgres_url")) as url:
            roles = {"REGISTRY_OWNER_DATABASE_URL": url, "REGISTRY_DATABASE_URL": as_server(url)}
            with running_server(tmp_path, url, **roles) as server:
                yield server


def test_nothing_acknowledged_is_lost_or_doubled_when_the_server_is_killed(alone: LiveServer) -> None:
    report = disturb(alone, kills=3, seed=7)
    assert report.faults == []
    assert report.kills == 3
    assert report.acknowledged > 50
    assert report.sent_again > 0
