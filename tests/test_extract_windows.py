"""What deidentified rows tell of visits against their windows: what the registry says of each of them, and no day."""

import pytest

from app.models.extract import ExtractProfile
from app.privacy import profile
from app.privacy.lattice import K
from tests.builds import built_again
from tests.course_cases import screen_failed
from tests.dosing_cases import SESSIONS, at, prepared, start
from tests.test_course import enrol
from tests.test_deidentified import approved, asked, files, people, table
from tests.test_screenings import all_met, screened_again
from tests.world import World


def screened_twice(world: World) -> str:
    """A participant with a screening visit of the screening that failed and of the one that led to the enrolment."""
    pid = screen_failed(world)
    visited(world, pid, "SCR", "2025-01-03")
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    visited(world, pid, "SCR", "2025-06-02", occurrence=2)
    assert enrol(world, pid, "2025-06-20").status_code == 201
    visited(world, pid, "BL", "2025-06-25")
    return pid


def visited(world: World, pid: str, code: str, on: str | None, **more: object) -> None:
    answer = world.staff_a.post("/v1/visits", world.visit(pid, code, on, **more))
    assert answer.status_code == 201, answer.text


def timings(text: str) -> dict[tuple[str, str], str]:
    return {(row["visit_code"], row["occurrence"]): row["timing"] for row in table(text)}


def test_a_visit_of_a_failed_screening_has_no_window(world: World) -> None:
    people(world, K - 1)
    screened_twice(world)
    assert timings(files(world)["visits.csv"]) == {("BL", "1"): "", ("SCR", "1"): "", ("SCR", "2"): "in_window"}


def test_a_next_screening_without_its_visit_leaves_the_window_to_the_one_before(world: World) -> None:
    """As the registry tells it: one that was missed has no day from which a schedule could count."""
    people(world, K - 1)
    pid = screened_twice(world)
    [again, first] = world.staff_a.get("/v1/visits", participant=pid, visit_code="SCR").json()["items"]
    missed = {"status": "missed", "occurred_on": None, "deviation_reason": "never came", "reason": "the wrong person"}
    path = f"/v1/visits/{again['id']}"
    assert world.staff_a.patch(path, missed, world.staff_a.get(path).headers["ETag"]).status_code == 200
    assert world.staff_a.get(f"/v1/visits/{first['id']}").json()["deviation_days"] < 0
    assert timings(files(world)["visits.csv"]) == {("BL", "1"): "", ("SCR", "1"): "early", ("SCR", "2"): ""}


def test_what_was_released_before_screenings_had_visits_of_their_own_is_built_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(world, K - 1)
    screened_twice(world)
    earlier = profile.VERSIONS[ExtractProfile.deidentified, "3"]
    with monkeypatch.context() as patch:
        patch.setitem(profile.PROFILES, ExtractProfile.deidentified, earlier)  # type: ignore[arg-type]
        path = released(world)
        told = world.analyst.get(f"{path}/files/visits.csv").text
    assert timings(told)["SCR", "1"] == "early"
    assert built_again(world, path) == "the same rows"


def test_days_are_not_counted_from_a_dosing_visit_without_a_dose(world: World) -> None:
    """As the registry's own days since the last dose: who had one counts (ICH E9, section 5.2.3)."""
    pid, staff = people(world, K)[0], world.staff_a
    session = staff.post(SESSIONS, start(prepared(staff, pid)["id"])).headers["Location"]
    not_given = {"kind": "initial", "planned_mg": 80, "deviation_reason": "panic before the dose"}
    [dose] = staff.post(f"{session}/doses", not_given).json()["doses"]
    assert staff.post("/v1/adverse-events", world.event(pid, onset="2025-03-04")).status_code == 201
    before = released(world)
    given = {"given_mg": 80, "given_at": at("12:00"), "deviation_reason": None, "reason": "was given later"}
    etag = staff.get(session).headers["ETag"]
    assert staff.patch(f"{session}/doses/{dose['id']}", given, etag).status_code == 200
    assert [onsets(world, path) for path in (before, released(world))] == [["BEFORE"], ["D1"]]
    assert built_again(world, before) == "the same rows"


def released(world: World) -> str:
    path = asked(world)
    assert approved(world, path).status_code == 201
    return path


def onsets(world: World, path: str) -> list[str]:
    return [row["onset"] for row in table(world.analyst.get(f"{path}/files/adverse_events.csv").text)]
