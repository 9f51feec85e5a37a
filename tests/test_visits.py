"""Visits, as site staff and monitors meet them."""

from typing import Any

import pytest
from httpx2 import Response

from tests.courses import given, left, withdraw
from tests.test_bulk import line, results, sent
from tests.world import World, madrs


def test_a_visit_is_stored_with_its_outcomes_and_the_servers_scores(world: World) -> None:
    pid = world.enrolled()
    answer = world.staff_a.post("/v1/visits", world.visit(pid, outcomes=[madrs(3)]))
    assert answer.status_code == 201
    visit = answer.json()
    score = visit["outcomes"][0]["scores"][0]
    assert (score["name"], score["value"], score["band"], score["reason"]) == ("total", 30, "moderate", None)
    assert score["rule"].startswith("MADRS/1 ")
    again = world.staff_a.get(answer.headers["Location"])
    assert again.json() == visit
    assert again.headers["ETag"] == answer.headers["ETag"]


def test_a_visit_with_one_bad_outcome_stores_nothing(world: World) -> None:
    pid = world.enrolled()
    good, bad = madrs(3), madrs(3)
    bad["items"]["MADRS_04"] = 7
    body = world.visit(pid, outcomes=[good, {**bad, "instrument": "MADRS"}])
    answer = world.staff_a.post("/v1/visits", body)
    assert answer.status_code in {409, 422}
    assert world.staff_a.get("/v1/visits", participant=pid).json()["items"] == []
    assert world.staff_a.get("/v1/outcomes", participant=pid).json()["items"] == []


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"instrument": "NO_SUCH"}, "/outcomes/0/instrument"),
        ({"items": {"MADRS_01": 7}}, "/outcomes/0/items/MADRS_01"),
        ({"items": {"MADRS_99": 1}}, "/outcomes/0/items/?"),
        ({"items": {"MADRS_01": 1.5}}, "/outcomes/0/items/MADRS_01"),
        ({"items": {"MADRS_01": True}}, "/outcomes/0/items/MADRS_01"),
    ],
)
def test_a_bad_outcome_is_pointed_at(world: World, change: dict[str, Any], pointer: str) -> None:
    body = world.visit(world.enrolled(), outcomes=[{**madrs(1), **change}])
    answer = world.staff_a.post("/v1/visits", body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


def dosed(world: World, on: str = "2025-02-01", **enrolled: Any) -> str:
    pid = world.enrolled(**enrolled)
    for code, day in (("BL", "2025-01-25"), ("DOS1", on)):
        assert world.staff_a.post("/v1/visits", world.visit(pid, code, day)).status_code == 201
    return pid


def test_a_window_hangs_on_its_anchor_visit(world: World) -> None:
    """INT1B is planned 7 days after dosing 1, give or take 3 (the shipped generic protocol)."""
    pid = dosed(world)
    visit = world.staff_a.post("/v1/visits", world.visit(pid, "INT1B", "2025-02-08")).json()
    assert visit["window"] == {"planned": "2025-02-08", "start": "2025-02-05", "end": "2025-02-11"}
    assert (visit["deviation_days"], visit["out_of_window"], visit["findings"]) == (0, False, [])


def test_a_window_is_unknown_until_its_anchor_took_place(world: World) -> None:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled(), "INT1B", "2025-02-08")).json()
    assert (visit["window"], visit["deviation_days"], visit["out_of_window"]) == (None, None, None)


def test_a_visit_outside_its_window_needs_a_reason(world: World) -> None:
    body = world.visit(dosed(world), "INT1B", "2025-02-12")
    refused = world.staff_a.post("/v1/visits", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "visit_outside_window")
    assert refused.json()["errors"][0]["pointer"] == "/deviation_reason"
    assert refused.json()["window"] == {"planned": "2025-02-08", "start": "2025-02-05", "end": "2025-02-11"}
    told = world.staff_a.post("/v1/visits", {**body, "deviation_reason": "Snow closed the road"})
    assert told.status_code == 201
    assert told.json()["deviation_days"] == 1
    assert [finding["code"] for finding in told.json()["findings"]] == ["visit_outside_window"]


def test_windows_move_when_the_anchor_is_corrected(world: World) -> None:
    pid = dosed(world)
    late = world.staff_a.post("/v1/visits", world.visit(pid, "INT1B", "2025-02-11")).json()
    anchor = world.staff_a.get("/v1/visits", participant=pid, visit_code="DOS1").json()["items"][0]
    etag = world.staff_a.get(f"/v1/visits/{anchor['id']}").headers["ETag"]
    body = {"occurred_on": "2025-01-30", "reason": "The date was misread"}
    assert world.staff_a.patch(f"/v1/visits/{anchor['id']}", body, etag).status_code == 200
    assert world.staff_a.get(f"/v1/visits/{late['id']}").json()["deviation_days"] == 2


def findings(world: World, pid: str, code: str) -> list[str]:
    [visit] = world.staff_a.get("/v1/visits", participant=pid, visit_code=code).json()["items"]
    return [f"{finding['code']}: {finding['message']}" for finding in visit["findings"]]


def open_queries(world: World, pid: str) -> list[str]:
    asked = world.monitor.get("/v1/data-queries", participant=pid, state="open").json()["items"]
    return sorted(query["rule"] for query in asked)


def corrected(world: World, pid: str, code: str, **change: Any) -> None:
    [visit] = world.staff_a.get("/v1/visits", participant=pid, visit_code=code).json()["items"]
    path = f"/v1/visits/{visit['id']}"
    body = {"reason": "The date was misread", **change}
    answer = world.staff_a.patch(path, body, world.staff_a.get(path).headers["ETag"])
    assert answer.status_code == 200, answer.text


def test_a_visit_entered_before_its_anchor_is_checked_against_its_window_once_the_anchor_is_there(world: World) -> None:
    pid = world.enrolled()
    early = world.staff_a.post("/v1/visits", world.visit(pid, "INT1B", "2025-02-08"))
    assert [finding["code"] for finding in early.json()["findings"]] == ["anchor_missing"]
    assert open_queries(world, pid) == ["anchor_missing"]
    assert world.staff_a.post("/v1/visits", world.visit(pid, "DOS1", "2025-02-20")).status_code == 201
    assert findings(world, pid, "INT1B") == ["visit_outside_window: 16 day(s) before the window"]
    assert open_queries(world, pid) == ["visit_outside_window"]
    assert world.staff_a.get(early.headers["Location"]).headers["ETag"] == early.headers["ETag"], "no edit of the visit"
    trail = world.monitor.get("/v1/audit-entries").json()["items"]
    told = [one["action"] for one in trail if one["subject_id"] == early.json()["id"]]
    assert list(dict.fromkeys(told)) == ["visit:flagged", "visit:recorded"]


def test_what_is_said_of_a_window_follows_the_corrections_of_its_anchor(world: World) -> None:
    pid = dosed(world)
    world.staff_a.post("/v1/visits", world.visit(pid, "INT1B", "2025-02-11"))
    corrected(world, pid, "DOS1", occurred_on="2025-01-30")
    assert findings(world, pid, "INT1B") == ["visit_outside_window: 2 day(s) after the window"]
    assert open_queries(world, pid) == ["visit_outside_window"]
    corrected(world, pid, "DOS1", occurred_on="2025-02-01")
    assert (findings(world, pid, "INT1B"), open_queries(world, pid)) == ([], [])
    corrected(world, pid, "DOS1", occurred_on="2025-01-30")
    corrected(world, pid, "DOS1", occurred_on=None, status="missed", deviation_reason="It was another person")
    assert findings(world, pid, "INT1B") == [f"anchor_missing: {NO_ANCHOR}"]
    assert open_queries(world, pid) == ["anchor_missing"]
    corrected(world, pid, "DOS1", occurred_on="2025-02-01", status="completed")
    assert (findings(world, pid, "INT1B"), open_queries(world, pid)) == ([], [])


NO_ANCHOR = "Without DOS1, which it can only follow"


@pytest.mark.parametrize(("code", "told"), [("DOS2", [NO_ANCHOR]), ("INT1A", [NO_ANCHOR]), ("SCR", []), ("UNS", [])])
def test_a_visit_that_can_only_follow_another_has_a_finding_without_that_one(
    world: World, code: str, told: list[str]
) -> None:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled(), code)).json()
    assert [finding["message"] for finding in visit["findings"]] == told


@pytest.mark.parametrize("order", [("PREP1", "DOS1"), ("DOS1", "PREP1")])
def test_a_preparation_after_the_dose_has_a_finding_whichever_was_entered_first(
    world: World, order: tuple[str, str]
) -> None:
    pid, days = world.enrolled(), {"PREP1": "2025-03-10", "DOS1": "2025-02-03"}
    for code in order:
        assert world.staff_a.post("/v1/visits", world.visit(pid, code, days[code])).status_code == 201
    assert findings(world, pid, "PREP1") == ["visit_out_of_order: After DOS1, which it must precede"]
    assert open_queries(world, pid) == ["visit_out_of_order"]
    corrected(world, pid, "PREP1", occurred_on="2025-02-03")
    assert (findings(world, pid, "PREP1"), open_queries(world, pid)) == ([], [])


def test_the_same_visit_is_recorded_once(world: World) -> None:
    pid = world.enrolled()
    assert world.staff_a.post("/v1/visits", world.visit(pid)).status_code == 201
    again = world.staff_a.post("/v1/visits", world.visit(pid))
    assert (again.status_code, again.json()["code"]) == (409, "visit_already_recorded")


def test_a_stored_visit_sent_again_is_called_stored_whatever_happened_since(world: World) -> None:
    pid = dosed(world)
    late = world.visit(pid, "INT1B", "2025-02-12", deviation_reason="Snow closed the road")
    assert world.staff_a.post("/v1/visits", late).status_code == 201
    left = {"status": "withdrawn", "effective_on": "2025-02-05", "reason": "Moved away"}
    assert world.staff_a.post(f"/v1/participants/{pid}/status", left).status_code == 201
    again = world.staff_a.post("/v1/visits", {**late, "deviation_reason": None})
    assert (again.status_code, again.json()["code"]) == (409, "visit_already_recorded")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [({"visit_code": "NOSUCH"}, "/visit_code"), ({"occurrence": 2}, "/occurrence")],
)
def test_a_visit_that_the_protocol_does_not_plan_is_refused(world: World, change: dict[str, Any], pointer: str) -> None:
    answer = world.staff_a.post("/v1/visits", {**world.visit(world.enrolled()), **change})
    assert (answer.status_code, answer.json()["code"]) == (422, "visit_unknown")
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_unscheduled_visits_may_be_many(world: World) -> None:
    pid = world.enrolled()
    for occurrence in (1, 2, 7):
        body = world.visit(pid, "UNS", "2025-03-01", occurrence=occurrence)
        assert world.staff_a.post("/v1/visits", body).status_code == 201


NOT_HELD = {"status": "not_applicable", "occurred_on": None}
BY_VIDEO = {"minutes": 60, "mode": "video", "staff": ["T01"]}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"occurred_on": None}, "/occurred_on date_missing"),
        ({"status": "missed"}, "/occurred_on date_contradicts_status"),
        ({"status": "missed", "occurred_on": None}, "/deviation_reason deviation_reason_missing"),
        ({"ended_on": "2025-01-24"}, "/ended_on ended_before_start"),
        ({**NOT_HELD, "outcomes": [madrs(1)]}, "/outcomes outcomes_contradict_status"),
        ({**NOT_HELD, "therapy": BY_VIDEO}, "/therapy therapy_contradicts_status"),
        ({"outcomes": [{"instrument": "MADRS"}]}, "/outcomes/0/items items_missing"),
    ],
)
def test_dates_and_status_must_fit(world: World, change: dict[str, Any], code: str) -> None:
    answer = world.staff_a.post("/v1/visits", {**world.visit(world.enrolled()), **change})
    assert answer.status_code == 422
    assert "{pointer} {code}".format(**answer.json()["errors"][0]) == code


def test_a_fault_of_a_correction_names_the_field_too(world: World) -> None:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
    wrong = {"reason": "typed wrongly", "status": "missed"}
    answer = world.staff_a.patch(visit.headers["Location"], wrong, visit.headers["ETag"])
    assert answer.json()["errors"][0]["pointer"] == "/occurred_on"


def test_a_missed_visit_is_kept_with_its_reason(world: World) -> None:
    body = world.visit(world.enrolled(), "PREP1", None, status="missed", deviation_reason="Ill with a cold")
    visit = world.staff_a.post("/v1/visits", body).json()
    assert (visit["status"], visit["occurred_on"], visit["deviation_reason"]) == ("missed", None, "Ill with a cold")


def test_nothing_is_recorded_before_consent(world: World) -> None:
    answer = world.staff_a.post("/v1/visits", world.visit(world.enrolled(), "SCR", "2025-01-01"))
    assert (answer.status_code, answer.json()["code"]) == (409, "consent_missing")


def without_scope(answer: Response) -> bool:
    """Whether it is refused, naming the scope of consent that is missing."""
    said = [error["message"] for error in answer.json().get("errors", [])]
    if (answer.status_code, answer.json().get("code")) != (409, "consent_missing"):
        return False
    return said == ["No consent in force for: long_follow_up"]


def test_the_long_follow_up_is_recorded_of_those_who_agreed_to_it(world: World) -> None:
    never, ended = world.enrolled(), world.enrolled(consent=given("2025-01-02"))
    withdraw(world, ended, "contact", "2025-08-01")
    for pid in (never, ended):
        assert without_scope(world.staff_a.post("/v1/visits", world.visit(pid, "FU7M", "2025-08-26"))), pid
        [told] = results(sent(world.staff_a, "visits", [line(world.visit(pid, "FU7M", "2025-08-26"))]))
        assert (told["result"], told["problem"]["code"]) == ("conflict", "consent_missing")
        assert world.staff_a.post("/v1/visits", world.visit(pid, "PRIM", "2025-08-26")).status_code == 201
    before = world.visit(ended, "FU7M", "2025-07-31")
    assert world.staff_a.post("/v1/visits", before).status_code == 201
    missed = world.visit(never, "FU7M", None, status="missed", deviation_reason="Did not agree to it")
    assert world.staff_a.post("/v1/visits", missed).status_code == 201


def test_what_is_recorded_of_the_long_follow_up_is_neither_moved_nor_extended_to_after_its_consent(
    world: World,
) -> None:
    pid = world.enrolled(consent=given("2025-01-02"))
    visit = world.staff_a.post("/v1/visits", world.visit(pid, "FU7M", "2025-08-26"))
    withdraw(world, pid, "contact", "2025-08-20")
    outcome = {"participant": pid, "visit": visit.json()["id"], **madrs(1)}
    assert without_scope(world.staff_a.post("/v1/outcomes", outcome))
    measured = world.staff_a.post("/v1/outcomes", {**outcome, "collected_on": "2025-08-19"})
    assert measured.status_code == 201

    def corrected(record: Response, **change: Any) -> Response:
        path = record.headers["Location"]
        seen = world.staff_a.get(path).headers["ETag"]
        return world.staff_a.patch(path, {"reason": "read in the source", **change}, seen)

    assert without_scope(corrected(measured, collected_on="2025-08-20"))
    assert without_scope(corrected(visit, occurred_on="2025-08-25"))
    assert corrected(visit, deviation_reason="Asked for by telephone").status_code == 200
    assert corrected(visit, occurred_on="2025-08-19").status_code == 200


def test_nothing_is_recorded_after_withdrawal_but_what_was_before_may_be(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "withdrawn", "2025-02-01")
    late = world.staff_a.post("/v1/visits", world.visit(pid, "PREP1", "2025-02-02"))
    assert (late.status_code, late.json()["code"]) == (409, "participant_left")
    assert world.staff_a.post("/v1/visits", world.visit(pid, "BL", "2025-01-31")).status_code == 201


def test_a_death_reported_later_admits_no_data_after_the_withdrawal(world: World) -> None:
    pid = world.enrolled()
    for status, on in (("lost_to_follow_up", "2025-02-01"), ("withdrawn", "2025-02-10"), ("died", "2025-09-30")):
        left(world, pid, status, on)
    late = world.staff_a.post("/v1/visits", world.visit(pid, "PREP1", "2025-02-11"))
    assert (late.status_code, late.json()["code"]) == (409, "participant_left")
    assert world.staff_a.post("/v1/visits", world.visit(pid, "PREP1", "2025-02-10")).status_code == 201


def test_a_death_reported_later_excludes_no_data_of_a_participant_who_had_completed(world: World) -> None:
    pid = world.enrolled()
    for status, on in (("completed", "2025-02-01"), ("died", "2025-09-30")):
        left(world, pid, status, on)
    assert world.staff_a.post("/v1/visits", world.visit(pid, "PREP1", "2025-02-11")).status_code == 201
    late = world.staff_a.post("/v1/visits", world.visit(pid, "PREP2", "2025-10-01"))
    assert (late.status_code, late.json()["code"]) == (409, "participant_left")


def test_a_correction_obeys_the_same_rules_as_a_new_visit(world: World) -> None:
    pid = dosed(world)
    visit = world.staff_a.post("/v1/visits", world.visit(pid, "INT1B", "2025-02-08"))
    path, etag = visit.headers["Location"], visit.headers["ETag"]
    for change, status in (
        ({"occurred_on": "2025-03-30"}, 409),
        ({"occurred_on": "2024-12-30"}, 409),
        ({"occurred_on": None}, 422),
        ({"status": "missed"}, 422),
        ({"status": None}, 422),
    ):
        answer = world.staff_a.patch(path, {"reason": "a correction", **change}, etag)
        assert answer.status_code == status, answer.text
    assert world.staff_a.get(path).json() == visit.json()


def test_a_visit_with_outcomes_cannot_become_missed(world: World) -> None:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled(), outcomes=[madrs(1)]))
    body = {"status": "missed", "occurred_on": None, "deviation_reason": "Not held", "reason": "a correction"}
    answer = world.staff_a.patch(visit.headers["Location"], body, visit.headers["ETag"])
    assert (answer.status_code, answer.json()["code"]) == (409, "visit_not_held")


def test_a_visit_whose_outcome_was_of_somebody_else_can_become_missed_and_then_nothing_is_answered_at_it(
    world: World,
) -> None:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled(), outcomes=[madrs(1)])).json()
    [outcome] = visit["outcomes"]
    path, none = f"/v1/outcomes/{outcome['id']}", dict.fromkeys(outcome["items"])
    assert amended(world, path, items=none).status_code == 200
    missed = {"status": "missed", "occurred_on": None, "deviation_reason": "Not held"}
    read = amended(world, f"/v1/visits/{visit['id']}", **missed)
    assert (read.status_code, read.json()["status"]) == (200, "missed")
    again = amended(world, path, items={"MADRS_10": 0})
    assert (again.status_code, again.json()["code"]) == (409, "visit_not_held")


def amended(world: World, path: str, **change: Any) -> Response:
    body = {"reason": "of somebody else", **change}
    return world.staff_a.patch(path, body, world.staff_a.get(path).headers["ETag"])


UNSEEN = ["\u200b" * 3, "\u2060" * 3, "\u2800" * 3, "\u3164" * 3, "\u3164\u115f\u1160", "\ufe0f" * 3]


@pytest.mark.by_turns
@pytest.mark.parametrize("reason", [None, "", " ", "x", "ok", "   a   ", "...", "---", "aaa", "x x.", *UNSEEN])
def test_a_correction_needs_a_real_reason(world: World, reason: str | None) -> None:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
    body = {"occurred_on": "2025-01-26", **({} if reason is None else {"reason": reason})}
    answer = world.staff_a.patch(visit.headers["Location"], body, visit.headers["ETag"])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/reason"


@pytest.mark.parametrize("reason", ["誤記訂正", "गलत लिखा", "می‌خواهم", "Nr. 7", "typo 👩‍⚕️"])
def test_a_reason_is_kept_as_it_is_written_in_any_language(world: World, reason: str) -> None:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
    body = {"occurred_on": "2025-01-26", "reason": reason}
    assert world.staff_a.patch(visit.headers["Location"], body, visit.headers["ETag"]).status_code == 200
    entries = world.monitor.get("/v1/audit-entries", action="visit:amended").json()["items"]
    assert {entry["reason"] for entry in entries} == {reason}


def test_why_a_visit_was_missed_does_not_explain_its_day_once_it_was_held(world: World) -> None:
    pid, ill = world.enrolled(), {"status": "missed", "deviation_reason": "Ill with a cold"}
    assert world.staff_a.post("/v1/visits", world.visit(pid, "DOS1", "2025-03-03")).status_code == 201
    path = world.staff_a.post("/v1/visits", world.visit(pid, "INT1B", None, **ill)).headers["Location"]

    def put_right(**change: Any) -> Any:
        seen = world.staff_a.get(path).headers["ETag"]
        answer = world.staff_a.patch(path, {"reason": "it was the other visit", **change}, seen)
        return answer.json().get("code") or answer.json()["deviation_reason"]

    held = {"status": "completed", "occurred_on": "2025-03-20"}
    assert put_right(**held) == "visit_outside_window"
    assert put_right(**held, deviation_reason="Snow") == "Snow"
    assert put_right(occurred_on="2025-03-21") == "Snow"
    assert put_right(status="missed", occurred_on=None) == "validation_failed", "and not the other way round"
    assert put_right(**ill, occurred_on=None) == "Ill with a cold"
    assert put_right(**{**held, "occurred_on": "2025-03-10"}) is None
