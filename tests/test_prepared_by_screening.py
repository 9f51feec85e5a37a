"""What prepares for a dose: visits since the screening that led to the enrolment began, not those of a failed one."""

from typing import Any

from tests.course_cases import screen_failed
from tests.courses import left
from tests.dosing_cases import DAY, SESSIONS, dose, held, path_of, start
from tests.test_course import answers, enrol
from tests.test_dosing_corrections import asked, corrected, remarks
from tests.test_screenings import all_met, screened_again
from tests.world import World

BEFORE = ("BL", "PREP1", "PREP2", "PREP3")
"""What the generic protocol wants held before the first dose."""

SINCE = "2025-02-14"
"""When the second screening began."""


def prepared_before(world: World) -> tuple[str, Any]:
    """Somebody whose visits before the first dose were held in the screening that failed, and a dosing visit."""
    pid = screen_failed(world)
    assert screened_again(world, pid, SINCE, **all_met()).status_code == 201
    for number, code in enumerate(BEFORE):
        held(world.staff_a, pid, code, f"2025-02-1{number}")  # in the screening that failed
    assert enrol(world, pid, "2025-02-20").status_code == 201
    return pid, held(world.staff_a, pid, "DOS1", DAY)


def held_again(world: World, pid: str) -> list[Any]:
    """The same visits once more."""
    days = ((code, f"2025-02-2{number}") for number, code in enumerate(BEFORE))
    return [held(world.staff_a, pid, code, on, occurrence=2) for code, on in days]


def test_visits_of_a_failed_screening_prepare_for_no_dose(world: World) -> None:
    pid, visit = prepared_before(world)
    refused = world.staff_a.post(SESSIONS, start(visit["id"]))
    assert (refused.status_code, refused.json()["code"]) == (409, "dosing_not_allowed")
    [error] = refused.json()["errors"]
    told = "Not held since the last screening began, on 2025-02-14: BL, PREP1, PREP2, PREP3"
    assert (error["code"], error["message"]) == ("DOSE-PREPARED", told)
    held_again(world, pid)
    assert world.staff_a.post(SESSIONS, start(visit["id"])).status_code == 201


def test_a_visit_of_the_day_on_which_the_second_screening_began_is_of_it(world: World) -> None:
    pid, visit = prepared_before(world)
    [baseline, *_] = held_again(world, pid)
    for on, answered in (("2025-02-13", 409), (SINCE, 201)):
        assert corrected(world, f"/v1/visits/{baseline['id']}", occurred_on=on).status_code == 200
        assert world.staff_a.post(SESSIONS, start(visit["id"])).status_code == answered


def test_doses_are_judged_again_when_the_day_of_the_second_screening_is_corrected(world: World) -> None:
    pid, visit = prepared_before(world)
    held_again(world, pid)
    path = path_of(world.staff_a.post(SESSIONS, start(visit["id"])))
    assert world.staff_a.post(f"{path}/doses", dose()).status_code == 201
    assert (remarks(world, path), asked(world, path)) == ([], [])
    for on, remarked in (("2025-02-21", True), (SINCE, False)):
        assert corrected(world, f"/v1/participants/{pid}", screened_on=on, enrolled_on="2025-02-26").status_code == 200
        assert remarks(world, path) == ["dose_off_course DOSE-PREPARED"] * remarked
        assert asked(world, path) == ["dose_off_course"] * remarked


def test_who_was_screened_once_is_prepared_by_every_visit(world: World) -> None:
    """Also one of before the day that the site gives for the screening."""
    pid = world.enrolled(screened_on="2025-02-11", enrolled_on="2025-02-20")
    for number, code in enumerate(BEFORE):
        held(world.staff_a, pid, code, f"2025-02-1{number}")
    visit = held(world.staff_a, pid, "DOS1", DAY)
    assert world.staff_a.post(SESSIONS, start(visit["id"])).status_code == 201


def began(world: World, pid: str) -> list[str]:
    return [one["screened_on"] for one in world.monitor.get(f"/v1/participants/{pid}/screenings").json()["items"]]


def test_a_corrected_day_of_the_second_screening_is_that_of_its_answers_too(world: World) -> None:
    pid = screen_failed(world)
    assert screened_again(world, pid, SINCE, **all_met()).status_code == 201
    assert corrected(world, f"/v1/participants/{pid}", screened_on="2025-02-16").status_code == 200
    assert began(world, pid) == ["2025-01-02", "2025-02-16"]
    told = world.monitor.get("/v1/audit-entries", action="screening:amended", participant=pid).json()["items"]
    assert [(one["subject_id"].rpartition("/")[2], one["reason"]) for one in told] == [("2", "read in the source")]
    answers(world, pid, EXCL02="not_met")
    assert world.staff_a.get(f"/v1/participants/{pid}").json()["status_on"] == "2025-02-16"


def test_the_day_of_a_second_screening_stays_known_and_after_the_one_that_failed(world: World) -> None:
    """Without it the visits of the failed screening would prepare for a dose."""
    pid, visit = prepared_before(world)
    person = f"/v1/participants/{pid}"
    for on, code in ((None, "required"), ("2025-01-01", "before_failure")):
        refused = corrected(world, person, screened_on=on)
        assert (refused.status_code, refused.json()["code"]) == (422, "screening_out_of_order")
        assert refused.json()["errors"][0]["code"] == code
    assert world.staff_a.get(person).json()["screened_on"] == SINCE
    assert world.staff_a.post(SESSIONS, start(visit["id"])).json()["code"] == "dosing_not_allowed"


def test_the_day_of_a_second_screening_stays_after_the_failure_of_the_first(world: World) -> None:
    pid = world.enrolled(enrolled_on=None, eligibility={"answers": {}})
    left(world, pid, "screen_failed", "2025-01-15")
    assert screened_again(world, pid, SINCE, **all_met()).status_code == 201
    refused = corrected(world, f"/v1/participants/{pid}", screened_on="2025-01-14")
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "before_failure")
    assert corrected(world, f"/v1/participants/{pid}", screened_on="2025-01-15").status_code == 200


def test_the_day_of_the_only_screening_may_be_unknown(world: World) -> None:
    pid = world.enrolled()
    assert corrected(world, f"/v1/participants/{pid}", screened_on=None).status_code == 200
    assert began(world, pid) == [None]
