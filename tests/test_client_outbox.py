"""What the client's outbox keeps, forgets and refers to, against a served registry."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_client import Outbox
from tests.hostile import LiveStudy, live_study
from tests.server import LiveServer
from tests.test_client import event, registry_of


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def held_in(folder: Path) -> bytes:
    """All bytes of the outbox, while it is open."""
    return b"".join(file.read_bytes() for file in folder.iterdir())


def test_what_was_sent_or_given_up_is_no_longer_on_the_tablet(live: LiveStudy, tmp_path: Path) -> None:
    enrolment, long = live.enrolment(), "slept badly " * 500
    label = enrolment["site_local_id"].encode()
    with Outbox(tmp_path / "outbox.db") as box, registry_of(live) as registry:
        person = box.add("/v1/participants", enrolment)
        box.add("/v1/adverse-events", event(person, description=long))
        wrong = box.add("/v1/adverse-events", event(person, term="Vertigo", severity="no such"))
        assert label in held_in(tmp_path)
        box.send(registry)
        assert [(act.state, act.body == {}) for act in box.acts()] == [
            ("stored", True),
            ("refused", False),
            ("refused", False),
        ]
        assert label not in held_in(tmp_path)
        assert b"Vertigo" in held_in(tmp_path)
        box.mend(wrong, event(person, term="Dizziness"))
        assert b"Vertigo" not in held_in(tmp_path)
        box.discard(next(box.acts("refused")).key)
        assert b"slept badly" not in held_in(tmp_path)
