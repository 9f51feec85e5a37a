"""A site's label that was mistyped at the enrolment is put right: the person is found, and not enrolled twice."""

from httpx2 import Response

from tests.courses import withdraw
from tests.label_cases import PATH, approved, asking
from tests.test_audit_entries import rows
from tests.test_dosing_corrections import corrected
from tests.test_withdrawals import refusal
from tests.world import World, label


def relabelled(world: World, pid: str, right: str, **more: int) -> Response:
    return corrected(world, f"/v1/participants/{pid}", site_local_id=right, **more)


def found(world: World, name: str) -> str | None:
    body = {"study": world.study, "site": "A", "site_local_id": name}
    answer = world.staff_a.post("/v1/participants/lookup", body)
    return answer.json()["pid"] if answer.is_success else None


def test_the_person_is_found_by_the_right_label_and_by_no_other(world: World) -> None:
    typed, right = label(), label()
    pid = world.enrolled(site_local_id=typed)
    answer = relabelled(world, pid, right)
    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    assert (found(world, right), found(world, typed)) == (pid, None)
    twice = world.staff_a.post("/v1/participants", world.enrolment(site_local_id=right))
    assert refusal(twice)[:2] == (409, "label_already_enrolled")


def test_whose_label_it_was_can_be_enrolled_after_it(world: World) -> None:
    """The label was typed for another person than the one who has it."""
    theirs = label()
    pid = world.enrolled(site_local_id=theirs)
    assert relabelled(world, pid, label()).status_code == 200
    assert found(world, theirs) is None
    assert world.enrolled(site_local_id=theirs) == found(world, theirs) != pid


def test_a_label_of_somebody_else_is_refused_and_nothing_changes(world: World) -> None:
    mine, theirs = label(), label()
    pid, other = world.enrolled(site_local_id=mine), world.enrolled(site_local_id=theirs)
    assert refusal(relabelled(world, pid, theirs.lower(), age_at_consent=52))[:2] == (409, "label_already_enrolled")
    assert (found(world, mine), found(world, theirs)) == (pid, other)
    assert world.staff_a.get(f"/v1/participants/{pid}").json()["age_at_consent"] == 41


def test_the_same_label_at_another_site_is_another_persons(world: World) -> None:
    name = label()
    world.enrolled("B", site_local_id=name)
    pid = world.enrolled()
    assert relabelled(world, pid, name).status_code == 200
    assert found(world, name) == pid


def test_only_how_it_is_written_can_be_corrected_too(world: World) -> None:
    pid = world.enrolled(site_local_id=(name := label()))
    assert relabelled(world, pid, name.lower()).status_code == 200
    path = approved(world, world.monitor.post(PATH, asking(pid)).headers["Location"])
    assert world.monitor.post(f"{path}/reading", {}).json()["site_local_id"] == name.lower()


def test_what_was_erased_does_not_come_back(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "identity", "2025-03-01")
    assert refusal(relabelled(world, pid, right := label()))[:2] == (410, "label_erased")
    assert found(world, right) is None


def test_the_trail_has_the_correction_and_neither_label(world: World) -> None:
    typed, right = label(), label()
    pid = world.enrolled(site_local_id=typed)
    relabelled(world, pid, right)
    told = rows(world.monitor, participant=pid)
    assert [one["reason"] for one in told if one["action"] == "vault:relabelled"] == ["read in the source"]
    assert [name for name in (typed, right) if name in str(told)] == []


def test_a_label_that_looks_like_a_number_of_a_person_is_refused(world: World) -> None:
    assert refusal(relabelled(world, world.enrolled(), "0123456789")) == (422, "validation_failed", ["/site_local_id"])


def test_a_label_is_not_corrected_under_an_older_version(world: World) -> None:
    pid = world.enrolled()
    path, change = f"/v1/participants/{pid}", {"reason": "read in the source", "site_local_id": label()}
    seen = world.staff_a.get(path).headers["ETag"]
    assert relabelled(world, pid, label()).status_code == 200
    late = world.staff_a.patch(path, change, seen)
    assert (late.status_code, late.json()["differing_fields"]) == (412, ["site_local_id"])
    assert found(world, change["site_local_id"]) is None
