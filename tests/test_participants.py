"""Enrolment, the site's own label, and the status model."""

from typing import Any

import pytest
from sqlmodel import select

from app.models.participant import STATUS_TRANSITIONS, ParticipantStatus, VaultIdentity
from app.privacy.vault import reveal_label
from app.security.sealing import SealBroken
from tests.courses import left
from tests.world import World, madrs


def test_enrolment_gives_a_pid_with_check_symbols(world: World) -> None:
    answer = world.staff_a.post("/v1/participants", world.enrolment())
    person = answer.json()
    assert answer.status_code == 201
    assert [len(group) for group in person["pid"].split("-")] == [4, 4, 4]
    assert answer.headers["Location"] == f"/v1/participants/{person['pid']}"
    assert "site_local_id" not in person
    assert world.monitor.get(answer.headers["Location"]).json() == person


def test_a_pid_is_read_in_any_spelling_and_a_mistyped_one_is_recognised(world: World) -> None:
    pid = world.enrolled()
    for spelling in (pid.lower(), pid.replace("-", ""), pid.replace("-", " "), pid.replace("0", "O").replace("1", "l")):
        assert world.staff_a.get(f"/v1/participants/{spelling}").json()["pid"] == pid
    mistyped = ("1" if pid[0] != "1" else "2") + pid[1:]
    answer = world.staff_a.get(f"/v1/participants/{mistyped}")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "pid_checksum")
    assert mistyped not in answer.text


def test_a_site_finds_its_participant_by_its_own_label(world: World) -> None:
    body = world.enrolment(site_local_id="MRN-12.3")
    pid = world.staff_a.post("/v1/participants", body).json()["pid"]
    for label in ("MRN-12.3", "mrn-12.3", "MRN123"):
        asked = {"study": world.study, "site": "A", "site_local_id": label}
        assert world.staff_a.post("/v1/participants/lookup", asked).json()["pid"] == pid
    unknown = {"study": world.study, "site": "A", "site_local_id": "MRN-12.4"}
    assert world.staff_a.post("/v1/participants/lookup", unknown).status_code == 404


def test_equal_labels_at_two_sites_are_two_people_and_disclose_nothing(world: World) -> None:
    one = world.staff_a.post("/v1/participants", world.enrolment("A", site_local_id="P-1"))
    two = world.staff_b.post("/v1/participants", world.enrolment("B", site_local_id="P-1"))
    assert (one.status_code, two.status_code) == (201, 201)
    again = world.staff_a.post("/v1/participants", world.enrolment("A", site_local_id="p.1"))
    assert (again.status_code, again.json()["code"]) == (409, "label_already_enrolled")


def test_the_label_is_stored_encrypted_and_bound_to_its_row(world: World) -> None:
    world.staff_a.post("/v1/participants", world.enrolment(site_local_id="Canary-7"))
    world.staff_a.post("/v1/participants", world.enrolment(site_local_id="Canary-8"))
    keyring = world.registry.app.state.keyring
    with world.registry.database.read() as session:
        statement = select(VaultIdentity).where(VaultIdentity.site_id == world.site_ids["A"])
        one, other = session.exec(statement).all()
    assert {reveal_label(keyring, row) for row in (one, other)} == {"Canary-7", "Canary-8"}
    swapped = VaultIdentity(**{**one.model_dump(), "wrapped_key": other.wrapped_key, "ciphertext": other.ciphertext})
    with pytest.raises(SealBroken):
        reveal_label(keyring, swapped)


@pytest.mark.parametrize("label", ["04712345678", "a b", "x@y.org", "", "-label", "1985-03-01-12345", "x" * 33])
def test_a_label_that_looks_like_an_identifier_is_refused_and_not_repeated(world: World, label: str) -> None:
    answer = world.staff_a.post("/v1/participants", world.enrolment(site_local_id=label))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/site_local_id"
    assert label == "" or label not in answer.text


BIRTHS = ("1984-05-07", "07.05.1984", "7/5/1984", "05_27_1984", "19840507", "07051984", "05271984", "1900-01-01")


@pytest.mark.parametrize("label", BIRTHS)
def test_a_date_of_birth_is_no_label(world: World, label: str) -> None:
    answer = world.staff_a.post("/v1/participants", world.enrolment(site_local_id=label))
    assert answer.status_code == 422
    assert [(one["pointer"], one["code"]) for one in answer.json()["errors"]] == [
        ("/site_local_id", "looks_identifying")
    ]
    assert label not in answer.text
    asked = {"study": world.study, "site": "A", "site_local_id": label}
    found = world.staff_a.post("/v1/participants/lookup", asked)
    assert found.status_code == 404, "who was enrolled under one before is looked for"


@pytest.mark.parametrize("label", ["1984", "01-0507", "840507", "01-002-3", "19841307", "2099-01-01", "S-5-7"])
def test_a_number_that_is_no_date_of_birth_is_a_label(world: World, label: str) -> None:
    assert world.staff_a.post("/v1/participants", world.enrolment(site_local_id=label)).status_code == 201


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"consent": {"version": "9", "given_on": "2025-01-02", "scopes": []}}, "/consent/version"),
        ({"consent": {"version": "1", "given_on": "2025-01-02", "scopes": ["fly"]}}, "/consent/scopes"),
        ({"consent": {"version": "1", "given_on": "2025-01-02", "scopes": []}}, "/consent/scopes"),
        ({"eligibility": {"met": False, "unmet": ["EXCL99"]}, "enrolled_on": None}, "/eligibility/unmet"),
        ({"planned_arm": "placebo"}, "/planned_arm"),
        ({"protocol_version": "99"}, "/protocol_version"),
        ({"age_at_consent": 17}, "/age_at_consent"),
        ({"sex": "female"}, "/sex"),
    ],
)
def test_enrolment_must_fit_the_protocol(world: World, change: dict[str, Any], pointer: str) -> None:
    answer = world.staff_a.post("/v1/participants", world.enrolment(**change))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"eligibility": {"met": False, "unmet": []}}, "/enrolled_on enrolled_not_eligible"),
        ({"eligibility": {"met": True, "unmet": ["EXCL01"]}}, "/eligibility/unmet eligibility_contradiction"),
        ({"enrolled_on": "2025-01-01"}, "/enrolled_on enrolled_before_screened"),
    ],
)
def test_enrolment_cannot_contradict_itself(world: World, change: dict[str, Any], code: str) -> None:
    answer = world.staff_a.post("/v1/participants", world.enrolment(**change))
    assert answer.status_code == 422
    assert "{pointer} {code}".format(**answer.json()["errors"][0]) == code


@pytest.mark.parametrize("enrolled_on", ["2025-01-20", None], ids=["enrolled", "screened"])
def test_nobody_takes_part_without_the_scope_that_the_consent_requires(world: World, enrolled_on: str | None) -> None:
    consent = {"version": "1", "given_on": "2025-01-02", "scopes": ["data_sharing", "recontact"]}
    answer = world.staff_a.post("/v1/participants", world.enrolment(enrolled_on=enrolled_on, consent=consent))
    assert answer.status_code == 422
    fault = answer.json()["errors"][0]
    assert (fault["pointer"], fault["code"]) == ("/consent/scopes", "required_scope")


def test_a_screen_failure_is_kept_with_its_criteria(world: World) -> None:
    change = {"eligibility": {"met": False, "unmet": ["EXCL01"]}, "enrolled_on": None}
    person = world.staff_a.post("/v1/participants", world.enrolment(**change)).json()
    assert (person["status"], person["eligible"], person["unmet_criteria"]) == ("screen_failed", False, ["EXCL01"])


def test_an_unknown_day_of_consent_is_accepted_with_a_finding(world: World) -> None:
    consent = {"version": "1", "given_on": None, "scopes": ["main"]}
    person = world.staff_a.post("/v1/participants", world.enrolment(consent=consent)).json()
    assert [finding["code"] for finding in person["findings"]] == ["consent_date_missing"]


def test_the_status_model_is_total() -> None:
    assert set(STATUS_TRANSITIONS) == set(ParticipantStatus)
    reachable = {ParticipantStatus.screened}.union(*STATUS_TRANSITIONS.values())
    assert reachable == set(ParticipantStatus)
    assert all(state not in following for state, following in STATUS_TRANSITIONS.items())


def move(world: World, pid: str, status: str) -> int:
    body = {"status": status, "effective_on": "2025-02-01", "reason": "As the source says"}
    return world.staff_a.post(f"/v1/participants/{pid}/status", body).status_code


def test_a_participant_moves_only_along_the_status_model(world: World) -> None:
    pid = world.enrolled()
    assert move(world, pid, "screened") == 409
    assert move(world, pid, "active") == 201
    assert move(world, pid, "completed") == 201
    assert move(world, pid, "withdrawn") == 409
    person = world.staff_a.get(f"/v1/participants/{pid}").json()
    assert (person["status"], person["status_on"], person["version"]) == ("completed", "2025-02-01", 3)


def test_no_status_begins_before_the_screening(world: World) -> None:
    pid = world.enrolled(enrolled_on=None)
    body = {"status": "enrolled", "effective_on": "2025-01-01", "reason": "As the source says"}
    answer = world.staff_a.post(f"/v1/participants/{pid}/status", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "status_before_screening")
    assert answer.json()["errors"][0]["pointer"] == "/effective_on"
    assert world.staff_a.post(f"/v1/participants/{pid}/status", {**body, "effective_on": "2025-01-02"}).is_success


@pytest.mark.parametrize("mistaken", ["died", "withdrawn", "completed"])
def test_an_end_that_was_entered_for_the_wrong_person_is_corrected_with_a_reason(world: World, mistaken: str) -> None:
    pid = world.enrolled()
    assert (move(world, pid, "active"), move(world, pid, mistaken)) == (201, 201)
    assert world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-03-01")).is_success is (
        mistaken == "completed"
    )
    assert correct(world, pid, "active") == 201
    person = world.staff_a.get(f"/v1/participants/{pid}").json()
    assert (person["status"], person["status_on"]) == ("active", "2025-01-25")
    assert world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-03-02", occurrence=2)).status_code == 201
    told = world.monitor.get(f"/v1/participants/{pid}/history").json()["items"]
    assert ("participant:status-corrected", mistaken, "active", "It was another person") in [
        (one["action"], one["old"], one["new"], one["reason"]) for one in told
    ]


def correct(world: World, pid: str, status: str) -> int:
    body = {"status": status, "effective_on": "2025-01-25", "reason": "It was another person", "correction": True}
    return world.staff_a.post(f"/v1/participants/{pid}/status", body).status_code


def test_a_correction_of_an_end_makes_nobody_what_they_could_not_have_been(world: World) -> None:
    taking_part, eligible, failed = (
        world.enrolled(),
        world.enrolled(enrolled_on=None),
        world.enrolled(enrolled_on=None, eligibility={"met": False}),
    )
    assert correct(world, taking_part, "active") == 409, "it has no end that could be mistaken"
    assert [move(world, pid, "died") for pid in (taking_part, eligible, failed)] == [201] * 3
    assert [correct(world, failed, status) for status in ("screened", "enrolled", "withdrawn")] == [409] * 3
    assert [correct(world, eligible, status) for status in ("active", "completed")] == [409] * 2
    assert [correct(world, taking_part, status) for status in ("screened", "screen_failed")] == [409] * 2
    assert [correct(world, failed, "screen_failed"), correct(world, eligible, "screened")] == [201] * 2
    assert [correct(world, taking_part, status) for status in ("died", "withdrawn", "enrolled")] == [201] * 3


@pytest.mark.parametrize(
    ("status", "on", "taken"),
    [
        ("died", "2025-09-20", False),
        ("withdrawn", "2025-02-02", False),
        ("withdrawn", "2025-02-10", True),
    ],
)
def test_a_corrected_end_leaves_the_ends_before_it_that_it_can_have_followed(
    world: World, status: str, on: str, taken: bool
) -> None:
    pid = world.enrolled()
    left(world, pid, "withdrawn", "2025-02-01")
    left(world, pid, "died", "2025-09-30")
    left(world, pid, status, on, correction=True)
    assert world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-02-10")).is_success is taken


def test_a_screened_person_is_enrolled_on_the_effective_day(world: World) -> None:
    pid = world.enrolled(enrolled_on=None)
    assert move(world, pid, "enrolled") == 201
    assert world.staff_a.get(f"/v1/participants/{pid}").json()["enrolled_on"] == "2025-02-01"


def test_a_mistyped_enrolment_can_be_corrected(world: World) -> None:
    person = world.staff_a.post("/v1/participants", world.enrolment(race="ASIAN"))
    path, etag = person.headers["Location"], person.headers["ETag"]
    body = {"age_at_consent": 52, "race": None, "reason": "Read from the wrong line"}
    corrected = world.staff_a.patch(path, body, etag)
    assert corrected.status_code == 200
    shown = corrected.json()
    assert (shown["age_at_consent"], shown["race"], shown["sex"], shown["version"]) == (52, None, "F", 2)
    assert world.staff_a.patch(path, body, etag).status_code == 412


@pytest.mark.parametrize(
    ("enrolled_on", "change"),
    [("2025-01-20", {"enrolled_on": "2025-01-21"}), (None, {"screened_on": "2025-01-21"})],
    ids=["enrolled", "screened"],
)
def test_the_day_of_the_status_follows_the_corrected_day_that_it_was_taken_from(
    world: World, enrolled_on: str | None, change: dict[str, str]
) -> None:
    person = world.staff_a.post("/v1/participants", world.enrolment(enrolled_on=enrolled_on))
    body = {**change, "reason": "Read from the wrong line"}
    corrected = world.staff_a.patch(person.headers["Location"], body, person.headers["ETag"]).json()
    assert corrected["status_on"] == "2025-01-21"
    pid = corrected["pid"]
    assert move(world, pid, "died") == 201
    later = world.staff_a.get(person.headers["Location"])
    body["screened_on"] = "2025-01-10"
    again = world.staff_a.patch(person.headers["Location"], body, later.headers["ETag"]).json()
    assert again["status_on"] == "2025-02-01", "another event's day"


@pytest.mark.parametrize(
    "change",
    [
        {"age_at_consent": None},
        {"sex": None},
        {"enrolled_on": "2024-12-31"},
        {"enrolled_on": None},
        {"enrolled_on": "2099-01-01"},
        {"actual_arm": "placebo"},
        {"pid": "x"},
    ],
)
def test_a_correction_obeys_the_rules_of_enrolment(world: World, change: dict[str, Any]) -> None:
    person = world.staff_a.post("/v1/participants", world.enrolment())
    body = {"reason": "a correction", **change}
    assert world.staff_a.patch(person.headers["Location"], body, person.headers["ETag"]).status_code == 422
    assert world.staff_a.get(person.headers["Location"]).json() == person.json()


def test_enrolment_on_a_day_before_consent_is_stored_with_a_finding_that_follows_its_correction(world: World) -> None:
    pid = world.enrolled(enrolled_on=None, consent={"version": "1", "given_on": "2025-02-10", "scopes": ["main"]})
    path = f"/v1/participants/{pid}"
    assert world.staff_a.get(path).json()["findings"] == []
    assert move(world, pid, "enrolled") == 201
    early = world.staff_a.get(path)
    assert [one["code"] for one in early.json()["findings"]] == ["consent_after_enrolment"]
    body = {"enrolled_on": "2025-02-10", "reason": "Read from the wrong line"}
    assert world.staff_a.patch(path, body, early.headers["ETag"]).json()["findings"] == []


def test_only_a_consent_that_was_given_has_a_day_to_correct(world: World) -> None:
    person = world.staff_a.post("/v1/participants", world.enrolment())
    body = {"consent": {"version": "2", "given_on": "2025-01-02"}, "reason": "found on the paper form"}
    answer = world.staff_a.patch(person.headers["Location"], body, person.headers["ETag"])
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/consent/version")


def test_a_person_who_was_not_enrolled_cannot_become_so_by_a_correction(world: World) -> None:
    change = {"eligibility": {"met": False, "unmet": ["EXCL01"]}, "enrolled_on": None}
    person = world.staff_a.post("/v1/participants", world.enrolment(**change))
    body = {"enrolled_on": "2025-01-20", "reason": "a correction"}
    answer = world.staff_a.patch(person.headers["Location"], body, person.headers["ETag"])
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "by_status")


def test_a_correction_that_changes_nothing_makes_no_version(world: World) -> None:
    records = [
        world.staff_a.post("/v1/participants", world.enrolment()),
        world.staff_a.post("/v1/visits", world.visit(world.enrolled(), outcomes=[madrs(1)])),
        world.staff_a.post("/v1/adverse-events", world.event(world.enrolled())),
    ]
    outcome = records[1].json()["outcomes"][0]
    records.append(world.staff_a.get(f"/v1/outcomes/{outcome['id']}"))
    for record in records:
        path = record.headers.get("Location") or f"/v1/outcomes/{outcome['id']}"
        answer = world.staff_a.patch(path, {"reason": "nothing to correct"}, record.headers["ETag"])
        assert (answer.status_code, answer.json()) == (200, record.json())


def test_nothing_can_be_recorded_of_the_future(world: World) -> None:
    pid = world.enrolled()
    tomorrow = "2099-01-01"
    refused = [
        world.staff_a.post("/v1/visits", world.visit(pid, "BL", tomorrow)),
        world.staff_a.post("/v1/adverse-events", world.event(pid, onset="2099")),
        world.staff_a.post("/v1/adverse-events", world.event(pid, aware_at=f"{tomorrow}T00:00:00Z")),
        world.staff_a.post("/v1/participants", world.enrolment(screened_on=tomorrow)),
    ]
    assert [answer.json()["errors"][0]["code"] for answer in refused] == ["date_in_future"] * 4
