"""No made-up request gets a server error, or an answer that the published description does not name. The long run, as
every role, is `python -m bench.fuzz --examples 200`."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.fuzz import fuzz, records
from tests.conftest import ENGINES
from tests.hostile import live_study
from tests.server import LiveServer, served


@pytest.fixture(params=ENGINES)
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveServer]:
    """A served registry that nobody else uses: made-up requests of an admin change accounts."""
    postgres = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with served(tmp_path, postgres) as server:
        yield server


def test_requests_are_made_of_ids_that_exist(live_server: LiveServer) -> None:
    with live_study(live_server) as live:
        described = live.http.get("/v1/openapi.json", timeout=60).json()["paths"]
        named = {name for path in described for name in re.findall(r"{(\w+)}", path)}
        unmade = named - records(live).keys()
    assert unmade == {"code", "delivery_id", "name", "signature_id"}


def test_every_answer_is_one_that_the_description_names(alone: LiveServer, tmp_path: Path) -> None:
    role = "admin" if alone.database_url.startswith("sqlite") else "site_staff"
    report = fuzz(alone, tmp_path, roles=(role,), examples=1, phases="fuzzing")
    assert report.faults == []
    assert report.requests > 125
