"""What was verified is to be verified again once something that belongs to it was voided or recorded anew."""

from httpx2 import Response

from tests.course_cases import CONSENT, TREATMENT_AMENDED, VOIDING, a_treatment, under_amendment, withdrawn
from tests.dosing_cases import a_session, path_of
from tests.test_verifications import state, verify
from tests.voided_cases import void, voided
from tests.world import World


def verified_person(world: World, pid: str, **seen: int) -> Response:
    """A verification of the participant, as it is now or as it was `seen`."""
    read = {**world.monitor.get(f"/v1/participants/{pid}").json(), **seen}
    about_it = {"subject_type": "participant", "subject": read["pid"], "version": read["version"], "result": "verified"}
    return world.monitor.post("/v1/verifications", about_it)


def test_a_verified_participant_needs_it_again_once_a_consent_is_voided_and_once_it_is_recorded_anew(
    world: World,
) -> None:
    pid = under_amendment(world)
    person, seen = f"/v1/participants/{pid}", world.monitor.get(f"/v1/participants/{pid}").json()["version"]
    assert world.staff_a.post(f"{person}/consents", CONSENT).status_code == 201
    first = verified_person(world, pid)
    assert state(world, first) == "verified"
    etag = world.staff_a.get(person).headers["ETag"]
    assert void(world.staff_a, f"{person}/consents/2/1", etag).status_code == 201
    assert state(world, first) == "needs_reverification"
    assert verified_person(world, pid, version=seen).json()["code"] == "record_moved"
    second = verified_person(world, pid)
    assert (state(world, second), state(world, first)) == ("verified", "superseded")
    assert world.staff_a.post(f"{person}/consents", CONSENT).status_code == 201
    assert state(world, second) == "needs_reverification"


def test_a_verified_participant_needs_it_again_once_a_withdrawal_is_voided(world: World) -> None:
    pid = withdrawn(world)
    verification = verified_person(world, pid)
    path = f"/v1/participants/{pid}/withdrawals/1/voiding"
    assert world.staff_a.post(path, VOIDING).status_code == 201
    assert state(world, verification) == "needs_reverification"


def test_a_verified_participant_needs_it_again_once_an_earlier_treatment_is_corrected_or_voided(world: World) -> None:
    treatment = a_treatment(world)
    path = treatment.headers["Location"]
    pid = path.split("/")[3]
    first = verified_person(world, pid)
    amended = world.staff_a.patch(path, TREATMENT_AMENDED, treatment.headers["ETag"])
    assert (amended.status_code, state(world, first)) == (200, "needs_reverification")
    second = verified_person(world, pid)
    voided(world.staff_a, path)
    assert state(world, second) == "needs_reverification"


def test_a_verified_session_needs_it_again_once_a_reading_is_voided(world: World) -> None:
    session = a_session(world)
    verification = verify(world, "dosing_session", session)
    assert void(world.staff_a, path_of(session, "/vitals/{reading_id}"), session.headers["ETag"]).is_success
    assert state(world, verification) == "needs_reverification"
