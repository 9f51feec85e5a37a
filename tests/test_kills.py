"""What was acknowledged survives the server's sudden death. The long run is `python -m bench.kills --kills 500`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.kills import disturb
from tests.conftest import ENGINES
from tests.server import LiveServer, served


@pytest.fixture(params=ENGINES)
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveServer]:
    """A served registry that nobody else uses."""
    postgres = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with served(tmp_path, postgres) as server:
        yield server


def test_nothing_acknowledged_is_lost_or_doubled_when_the_server_is_killed(alone: LiveServer) -> None:
    report = disturb(alone, kills=3, seed=7)
    assert report.faults == []
    assert report.kills == 3
    assert report.acknowledged > 50
    assert report.sent_again > 0
