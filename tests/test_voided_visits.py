"""A visit that its site entered in error: voided with its outcomes, still to be read, and counted nowhere."""

from threading import Barrier, Thread
from typing import Any

from tests.dosing_cases import DAY, SESSIONS, a_session, dose, held, path_of, prepared, start
from tests.route_cases import a_signature, a_visit
from tests.test_changes import feed
from tests.test_data_cuts import SAME, cut, extract, tables, verdict
from tests.test_data_cuts import course as a_course
from tests.test_dosing_corrections import asked, remarks
from tests.voided_cases import WHY, void, voided
from tests.world import World, madrs

VISITS = "/v1/visits"
LATE = "Came when it suited"


def listed(world: World, path: str = VISITS, **asked: Any) -> list[str]:
    return [one["id"] for one in world.monitor.get(path, study=world.study, **asked).json()["items"]]


def findings(world: World, path: str) -> list[str]:
    return [one["code"] for one in world.staff_a.get(path).json()["findings"]]


def test_a_visit_takes_its_outcomes_with_it_and_is_still_read_with_them(world: World) -> None:
    visit = a_visit(world, "A")
    outcome = visit.json()["outcomes"][0]["id"]
    _, place = feed(world.staff_a)
    answer = voided(world.staff_a, visit.headers["Location"]).json()
    assert (answer["voiding_reason"], answer["status"]) == (WHY["reason"], "completed")
    [gone] = answer["outcomes"]
    assert (gone["id"], gone["voided_at"], gone["voiding_reason"]) == (outcome, answer["voided_at"], WHY["reason"])
    for caller in (world.staff_a, world.monitor):
        assert caller.get(visit.headers["Location"]).json() == answer
    for path, one in ((VISITS, answer["id"]), ("/v1/outcomes", outcome)):
        assert (listed(world, path), listed(world, path, voided="true")) == ([], [one])
    changes, _ = feed(world.staff_a, place)
    assert [(one["action"], one["subject_id"]) for one in changes] == [
        ("visit:voided", answer["id"]),
        ("outcome:voided", outcome),
    ]


def test_an_outcome_that_was_voided_before_is_not_shown_as_the_visits(world: World) -> None:
    visit = a_visit(world, "A").json()
    voided(world.staff_a, f"/v1/outcomes/{visit['outcomes'][0]['id']}")
    answer = voided(world.staff_a, f"{VISITS}/{visit['id']}").json()
    assert answer["outcomes"] == []


def test_what_was_voided_is_not_changed_again_and_the_visit_is_recorded_anew(world: World) -> None:
    visit = a_visit(world, "A")
    read, path, staff = visit.json(), visit.headers["Location"], world.staff_a
    outcome = read["outcomes"][0]
    seen = voided(staff, path).headers["ETag"]
    of_outcome = staff.get(f"/v1/outcomes/{outcome['id']}").headers["ETag"]
    about = {"participant": read["participant"], "visit": read["id"]}
    verification = {"subject_type": "visit", "subject": read["id"], "result": "verified", "version": 2}
    for answer in (
        void(staff, path, seen),
        staff.patch(path, {"reason": "typed wrongly", "occurred_on": "2025-01-26"}, seen),
        staff.patch(f"/v1/outcomes/{outcome['id']}", {"reason": "misread", "items": {"MADRS_01": 1}}, of_outcome),
        void(staff, f"/v1/outcomes/{outcome['id']}", of_outcome),
        staff.post("/v1/outcomes", {**about, **madrs(1)}),
        world.monitor.post("/v1/verifications", verification),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "record_voided"), answer.text
    assert world.monitor.get("/v1/signatures/content", **about).status_code == 404
    body = world.visit(read["participant"], outcomes=[madrs(4)])
    anew = staff.post(VISITS, body)
    assert anew.status_code == 201, anew.text
    again = staff.post(VISITS, body).json()
    assert (again["code"], again["existing"]) == ("visit_already_recorded", anew.headers["Location"])


def test_no_dosing_session_starts_at_a_voided_visit(world: World) -> None:
    visit = prepared(world.staff_a, world.enrolled())
    voided(world.staff_a, f"{VISITS}/{visit['id']}")
    answer = world.staff_a.post(SESSIONS, start(visit["id"]))
    assert (answer.status_code, answer.json()["code"]) == (409, "record_voided")


def test_a_visit_stays_until_its_dosing_session_is_voided(world: World) -> None:
    session = a_session(world)
    path = f"{VISITS}/{session.json()['visit']}"
    answer = void(world.staff_a, path, world.staff_a.get(path).headers["ETag"])
    assert (answer.status_code, answer.json()["code"]) == (409, "visit_dosed")
    assert world.staff_a.get(path).json()["voided_at"] is None
    voided(world.staff_a, path_of(session))
    voided(world.staff_a, path)
    assert world.monitor.get(path_of(session)).json()["visit"] == session.json()["visit"]


def test_visits_that_hang_on_it_are_judged_again(world: World) -> None:
    pid = world.enrolled()
    anchor = held(world.staff_a, pid, "DOS1", "2025-03-03")["id"]
    body = world.visit(pid, "INT1B", "2025-04-20", deviation_reason=LATE)
    later = world.staff_a.post(VISITS, body).headers["Location"]
    assert findings(world, later) == ["visit_outside_window"]
    voided(world.staff_a, f"{VISITS}/{anchor}")
    assert findings(world, later) == ["anchor_missing"]
    held(world.staff_a, pid, "DOS1", "2025-03-03")
    assert findings(world, later) == ["visit_outside_window"]


def test_a_dose_whose_preparation_does_not_count_any_more_has_a_finding(world: World) -> None:
    session = a_session(world)
    path, pid = path_of(session), session.json()["participant"]
    assert world.staff_a.post(f"{path}/doses", dose()).status_code == 201
    assert (remarks(world, path), asked(world, path)) == ([], [])
    prepared_at = [one for one in listed(world, participant=pid) if one != session.json()["visit"]]
    for one in prepared_at:
        voided(world.staff_a, f"{VISITS}/{one}")
    assert asked(world, path) == ["dose_off_course"]


def test_what_was_exposed_by_it_alone_was_not(world: World) -> None:
    pid = world.enrolled()
    visit = held(world.staff_a, pid, "DOS1", DAY)
    event = world.staff_a.post("/v1/adverse-events", world.event(pid, onset="2025-03-04")).headers["Location"]
    assert world.monitor.get(event).json()["treatment_emergent"] is True
    voided(world.staff_a, f"{VISITS}/{visit['id']}")
    assert world.monitor.get(event).json()["treatment_emergent"] is None


def test_a_therapist_of_a_voided_visit_may_rate(world: World) -> None:
    pid = world.enrolled()
    therapy = {"minutes": 90, "mode": "in_person", "staff": ["T01"]}
    body = world.visit(pid, "PREP1", "2025-02-06", therapy=therapy, deviation_reason=LATE)
    treated = world.staff_a.post(VISITS, body).headers["Location"]
    rated = world.visit(pid, outcomes=[{**madrs(2), "rater": "T01"}])
    assert world.staff_a.post(VISITS, rated).json()["code"] == "rater_not_independent"
    assert voided(world.staff_a, treated).json()["therapy"]["staff"] == ["T01"]
    made = world.staff_a.post(VISITS, rated)
    assert made.status_code == 201, made.text


def test_a_signature_of_it_is_broken(world: World) -> None:
    signed = a_signature(world, "A")
    voided(world.staff_a, f"{VISITS}/{signed.json()['visit']}")
    assert world.monitor.get(signed.headers["Location"]).json()["state"] == "broken"


def test_a_cut_from_before_shows_it_still_and_later_extracts_have_no_trace(world: World) -> None:
    made = a_course(world)
    name, before = cut(world), extract(world)
    then = tables(world, before)
    for kind in ("event", "visit"):
        voided(world.staff_a, made[kind])
    assert world.staff_a.get(made["outcome"]).json()["voided_at"] is not None
    assert tables(world, extract(world, cut=name)) == then
    assert verdict(world, before) == SAME
    now = tables(world, extract(world))
    assert (now["outcomes.csv"], now["adverse_events.csv"]) == ([], [])
    assert [one["visit_code"] for one in now["visits.csv"]] == ["DOS1"]
    later = cut(world)
    a_course(world)
    assert tables(world, extract(world, cut=later)) == now


def test_of_a_voiding_and_an_outcome_at_the_same_moment_none_outlives_the_visit(world: World) -> None:
    for _ in range(4):
        visit = a_visit(world, "A")
        read, gate, answers = visit.json(), Barrier(2), {}
        items = {f"CSSRS_SLV_{number:02d}": 0 for number in range(1, 11)}
        older = {"instrument": "CSSRS_SLV", "instrument_version": "1", "items": items}
        body = {"participant": read["participant"], "visit": read["id"], **older}

        def takes(name: str, send: Any, gate: Barrier = gate, answers: dict[str, Any] = answers) -> None:
            gate.wait()
            answers[name] = send()

        sends = {
            "void": lambda visit=visit: void(world.staff_a, visit.headers["Location"], visit.headers["ETag"]),
            "measure": lambda body=body: world.staff_a.post("/v1/outcomes", body),
        }
        threads = [Thread(target=takes, args=one) for one in sends.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers["void"].status_code == 201
        assert answers["measure"].status_code in {201, 409}, answers["measure"].text
        assert listed(world, "/v1/outcomes", participant=read["participant"]) == []
