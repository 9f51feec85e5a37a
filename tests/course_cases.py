"""One valid request for each route of a participant's course, and participants who are ready for it."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from httpx2 import Response

from tests.world import Caller, World, made, protocol_definition, read_of, staff

ONE = "/v1/participants/{pid}"
ONE_TREATMENT = f"{ONE}/treatments/{{treatment_id}}"
WITHDRAWAL = {"scope": "contact", "effective_on": "2025-03-01", "reason": "asked not to be called"}
VOIDING = {"reason": "recorded for the wrong participant"}
TREATMENT = {"atc": "N06AB04", "weeks": 8, "adequate": True, "this_episode": True, "outcome": "none"}
TREATMENT_AMENDED = {"weeks": 6, "reason": "read from the wrong line"}
CONSENT = {"version": "2", "given_on": "2025-06-01", "scopes": ["main"], "reason": "after the amendment"}
SCREENING = {"screened_on": "2025-04-01", "reason": "taper completed", "answers": {}}
ELIGIBILITY = {"answers": {"INCL01": "met"}, "reason": "seen in the file"}


def amended(world: World) -> str:
    """A new protocol version of the study: from 1 May 2025 on everybody in treatment signs consent version 2."""
    version = uuid4().hex
    definition = protocol_definition()
    second = {**definition["consents"][0], "version": "2", "valid_from": "2025-05-01"}
    amendment = {
        "version": version,
        "valid_from": "2025-05-01",
        "summary": "A third questionnaire",
        "reconsent": ["enrolled", "active"],
        "consent": "2",
        "source": "made up",
    }
    body = {**definition, "version": version, "consents": [*definition["consents"], second], "amendments": [amendment]}
    answer = world.admin.post(f"/v1/studies/{world.study}/protocols", body)
    assert answer.status_code == 201, answer.text
    return version


def under_amendment(world: World, site: str = "A", **changes: Any) -> str:
    """Somebody who was enrolled before a new version of the protocol, and goes on by it."""
    pid = world.enrolled(site, **changes)
    body = {"version": amended(world), "reason": "amendment in force"}
    moved = staff(world, site).post(f"/v1/participants/{pid}/protocol-version", body)
    assert moved.status_code == 200, moved.text
    return pid


def withdrawn(world: World, site: str = "A") -> str:
    """Somebody with one withdrawal, as the site recorded it."""
    pid = world.enrolled(site)
    made(world, site, f"/v1/participants/{pid}/withdrawals", WITHDRAWAL)
    return pid


def a_treatment(world: World, site: str = "A") -> Response:
    return made(world, site, f"/v1/participants/{world.enrolled(site)}/treatments", TREATMENT)


def open_screening(world: World, site: str = "A") -> str:
    return world.enrolled(site, enrolled_on=None, eligibility={"answers": {}})


def screen_failed(world: World, site: str = "A", **changes: Any) -> str:
    return world.enrolled(site, enrolled_on=None, eligibility={"met": False, "unmet": ["EXCL02"]}, **changes)


def _read(below: str) -> Any:
    return lambda world, caller, site: caller.get(f"/v1/participants/{world.enrolled(site)}/{below}")


def _post(below: str, body: Mapping[str, Any], make: Any) -> Any:
    def case(world: World, caller: Caller, site: str) -> Response:
        return caller.post(f"/v1/participants/{make(world, site)}/{below}", body)

    return case


def _enrolled(world: World, site: str) -> str:
    return world.enrolled(site)


def _move(world: World, caller: Caller, site: str) -> Response:
    body = {"version": amended(world), "reason": "amendment in force"}
    return caller.post(f"/v1/participants/{world.enrolled(site, protocol_version='1')}/protocol-version", body)


def _amend_treatment(world: World, caller: Caller, site: str) -> Response:
    record = a_treatment(world, site)
    return caller.patch(record.headers["Location"], TREATMENT_AMENDED, record.headers["ETag"])


COURSE_CASES: Mapping[tuple[str, str], Any] = {
    **{
        ("GET", f"{ONE}/{below}"): _read(below)
        for below in ("schedule", "history", "consents", "screenings", "treatments")
    },
    ("GET", "/v1/studies/{study}/due"): lambda world, caller, site: caller.get(f"/v1/studies/{world.study}/due"),
    ("POST", f"{ONE}/consents"): _post("consents", CONSENT, under_amendment),
    ("POST", f"{ONE}/withdrawals"): _post("withdrawals", WITHDRAWAL, _enrolled),
    ("POST", f"{ONE}/withdrawals/{{number}}/voiding"): _post("withdrawals/1/voiding", VOIDING, withdrawn),
    ("POST", f"{ONE}/screenings"): _post("screenings", SCREENING, screen_failed),
    ("POST", f"{ONE}/eligibility"): _post("eligibility", ELIGIBILITY, open_screening),
    ("POST", f"{ONE}/treatments"): _post("treatments", TREATMENT, _enrolled),
    ("GET", ONE_TREATMENT): read_of(a_treatment),
    ("PATCH", ONE_TREATMENT): _amend_treatment,
    ("POST", f"{ONE}/protocol-version"): _move,
}
