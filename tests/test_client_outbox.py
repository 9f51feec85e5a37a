"""What the client's outbox keeps, forgets and refers to, against a served registry."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_client import Outbox
from tests.dosing_cases import dose, prepared, start, vitals
from tests.hostile import LiveStudy, live_study
from tests.server import LiveServer
from tests.test_client import event, registry_of, visit


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


def test_a_reading_and_a_dose_are_corrected_before_they_are_sent(live: LiveStudy, tmp_path: Path) -> None:
    dosing = prepared(live.staff, live.enrolled())["id"]
    with Outbox(tmp_path / "outbox.db") as box, registry_of(live) as registry:
        session = box.add("/v1/dosing-sessions", start(dosing))
        path = f"/v1/dosing-sessions/{session}"
        given = box.add(f"{path}/doses", dose())
        low, high = vitals(None, "10:15", PULSE=60), vitals(None, "10:15", PULSE=66)
        first, _, last = (box.add(f"{path}/vitals", one) for one in (high, low, high))
        seen = box.amend(f"{path}/vitals/{first.upper()}", last, "misread", values={"PULSE": 61})
        box.amend(f"{path}/doses/{given}", seen, "misread", planned_mg=90, deviation_reason="80 was asked for")
        assert box.send(registry) == 7, list(box.acts("refused"))
        assert {act.location for act in box.acts() if act.seen is None} == {next(box.acts()).location}
        read = registry.get(str(next(box.acts()).location)).body
        assert sorted(one["values"]["PULSE"] for one in read["vitals"][1:]) == [60, 61, 66]
        assert [one["planned_mg"] for one in read["doses"]] == [90]


def test_only_what_is_a_name_stands_for_something_else(live: LiveStudy, tmp_path: Path) -> None:
    text = "@home he slept badly for the two days"
    with Outbox(tmp_path / "outbox.db") as box, registry_of(live) as registry:
        person = box.add("/v1/participants", live.enrolment())
        for term in (text, f"see {person}/{person}"):
            box.add("/v1/adverse-events", event(person.upper(), term=term))
        assert box.send(registry) == 3
        read = registry.pages("/v1/adverse-events", study=live.study)
        assert {one["term"] for one in read} == {text, f"see {person}/{person}"}


def test_what_was_entered_in_error_offline_is_voided_and_recorded_anew(live: LiveStudy, tmp_path: Path) -> None:
    pid = live.enrolled()
    with Outbox(tmp_path / "outbox.db") as box, registry_of(live) as registry:
        wrong = box.add("/v1/visits", visit(pid))
        gone = box.void(f"/v1/visits/{wrong}", wrong, "of another participant")
        box.add("/v1/visits", {**visit(pid), "occurred_on": "2025-01-26"})
        assert box.send(registry) == 3, list(box.acts("refused"))
        assert [act.seen for act in box.acts()] == [None, wrong, None]
        read = list(registry.pages("/v1/visits", participant=pid))
        assert [one["occurred_on"] for one in read] == ["2025-01-26"]
        again = box.void(f"/v1/visits/{wrong}", gone, "of another participant")
        assert box.send(registry) == 0
        (refused,) = box.acts("refused")
        assert (f"@{refused.key}", (refused.problem or {})["code"]) == (again, "record_voided")


def test_who_was_enrolled_twice_offline_is_voided_after_their_records(live: LiveStudy, tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as box, registry_of(live) as registry:
        right, twice = (box.add("/v1/participants", live.enrolment()) for _ in range(2))
        wrong = box.add("/v1/visits", visit(twice))
        box.void(f"/v1/visits/{wrong}", wrong, "of the other pid")
        box.void(f"/v1/participants/{twice}", twice, "enrolled twice")
        box.add("/v1/visits", visit(right))
        assert box.send(registry) == 6, list(box.acts("refused"))
        [kept] = registry.pages("/v1/participants", study=live.study)
        [theirs] = registry.pages("/v1/visits", study=live.study)
        assert theirs["participant"] == kept["pid"]


def test_a_record_that_somebody_else_changed_is_not_voided_unseen(live: LiveStudy, tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as box, registry_of(live) as registry:
        made = registry.post("/v1/visits", visit(live.enrolled()))
        box.void(str(made.location), str(made.etag), "of another participant")
        registry.amend(str(made.location), str(made.etag), "misread", occurred_on="2025-01-26")
        assert box.send(registry) == 0
        (refused,) = box.acts("refused")
        assert (refused.problem or {})["code"] == "version_stale"
        box.mend(refused.key, refused.body, registry.get(str(made.location)).etag)
        assert box.send(registry) == 1
        assert registry.get(str(made.location)).body["voiding_reason"] == "of another participant"
