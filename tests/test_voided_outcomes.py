"""An outcome that its site entered in error: voided, still to be read, and counted nowhere."""

from typing import Any

from httpx2 import Response

from tests.courses import withdraw
from tests.dosing_cases import a_signal
from tests.route_cases import a_signature, a_visit, an_older_outcome, an_outcome
from tests.voided_cases import WHY, void, voided
from tests.world import World, madrs

OUTCOMES = "/v1/outcomes"


def path(outcome: Response) -> str:
    return f"{OUTCOMES}/{outcome.json()['id']}"


def listed(world: World, **asked: Any) -> list[str]:
    return [one["id"] for one in world.monitor.get(OUTCOMES, study=world.study, **asked).json()["items"]]


def test_a_voided_outcome_is_in_no_list_and_is_still_read_by_its_id_with_when_and_why(world: World) -> None:
    outcome, other = an_outcome(world, "A"), an_outcome(world, "A")
    answer = voided(world.staff_a, path(outcome)).json()
    assert (answer["voiding_reason"], answer["items"]) == (WHY["reason"], outcome.json()["items"])
    assert answer["scores"] == outcome.json()["scores"]
    for caller in (world.staff_a, world.monitor):
        assert caller.get(path(outcome)).json() == answer
    assert (listed(world), listed(world, voided="true")) == ([other.json()["id"]], [outcome.json()["id"]])
    visit = world.staff_a.get(f"/v1/visits/{outcome.json()['visit']}").json()
    assert visit["outcomes"] == []
    response = world.staff_a.get(f"/v1/participants/{answer['participant']}/response").json()
    assert response["items"] == []


def test_what_was_voided_is_not_changed_again_and_the_instrument_is_recorded_anew(world: World) -> None:
    outcome = an_older_outcome(world, "A")
    seen = voided(world.staff_a, path(outcome)).headers["ETag"]
    verification = {"subject_type": "outcome", "subject": outcome.json()["id"], "result": "verified", "version": 2}
    for answer in (
        void(world.staff_a, path(outcome), seen),
        world.staff_a.patch(path(outcome), {"reason": "typed wrongly", "items": {"CSSRS_SLV_01": 1}}, seen),
        world.staff_a.post(f"{path(outcome)}/rescoring", {"reason": "new rules"}),
        world.monitor.post("/v1/verifications", verification),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "record_voided"), answer.text
    told = outcome.json()
    same = {name: told[name] for name in ("participant", "visit", "instrument", "instrument_version", "items")}
    anew = world.staff_a.post(OUTCOMES, same)
    assert anew.status_code == 201, anew.text
    again = world.staff_a.post(OUTCOMES, same).json()
    assert (again["code"], again["existing"]) == ("outcome_already_recorded", anew.headers["Location"])
    voided(world.staff_a, path(anew))
    assert world.staff_a.post(OUTCOMES, same).status_code == 201


def test_an_open_signal_that_it_raised_waits_for_its_review_and_says_that_its_trigger_is_gone(world: World) -> None:
    signal = a_signal(world).json()
    assert (signal["source"]["kind"], signal["trigger_corrected_at"]) == ("outcome", None)
    voided(world.staff_a, f"{OUTCOMES}/{signal['source']['id']}")
    now = world.staff_a.get(f"/v1/safety-signals/{signal['id']}").json()
    assert (now["state"], now["holds_dosing"], now["trigger_corrected_at"] is not None) == ("open", True, True)
    review = {"decision": "no_risk", "assessment": "It was the form of somebody else"}
    assert world.staff_a.post(f"/v1/safety-signals/{signal['id']}/review", review).status_code == 201


def test_a_signature_over_it_is_broken(world: World) -> None:
    signed = a_signature(world, "A")
    visit = world.staff_a.get(f"/v1/visits/{signed.json()['visit']}").json()
    voided(world.staff_a, f"{OUTCOMES}/{visit['outcomes'][0]['id']}")
    assert world.monitor.get(signed.headers["Location"]).json()["state"] == "broken"


def test_a_record_can_be_voided_after_the_withdrawal_of_collection(world: World) -> None:
    outcome = an_outcome(world, "A")
    withdraw(world, outcome.json()["participant"], "collection", "2025-02-01")
    voided(world.staff_a, path(outcome))


def test_a_rater_of_a_voided_outcome_may_treat(world: World) -> None:
    pid = world.enrolled()
    rated = world.staff_a.post("/v1/visits", world.visit(pid, outcomes=[{**madrs(2), "rater": "R01"}])).json()
    therapy = {"minutes": 90, "mode": "in_person", "staff": ["R01"]}
    visit = world.visit(pid, "PREP1", "2025-02-06", therapy=therapy, deviation_reason="Came when it suited")
    assert world.staff_a.post("/v1/visits", visit).json()["code"] == "therapist_is_rater"
    voided(world.staff_a, f"{OUTCOMES}/{rated['outcomes'][0]['id']}")
    made = world.staff_a.post("/v1/visits", visit)
    assert made.status_code == 201, made.text


def test_a_visit_of_which_nothing_was_measured_after_all_can_become_missed(world: World) -> None:
    visit = a_visit(world, "A")
    missed = {"status": "missed", "occurred_on": None, "deviation_reason": "Did not come", "reason": "misread"}
    where, seen = visit.headers["Location"], visit.headers["ETag"]
    assert world.staff_a.patch(where, missed, seen).json()["code"] == "visit_not_held"
    voided(world.staff_a, f"{OUTCOMES}/{visit.json()['outcomes'][0]['id']}")
    assert world.staff_a.patch(where, missed, seen).status_code == 200
