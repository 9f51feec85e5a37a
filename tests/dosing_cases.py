"""A participant who is ready for a dose, the requests of a dosing day, and one valid request for each of its routes."""

from collections.abc import Mapping
from typing import Any

from httpx2 import Response

from tests.world import Caller, World, madrs, read_of, staff

DAY = "2025-03-03"
CALM = {"SYSBP": 120, "DIABP": 80, "PULSE": 70, "TEMP": 36.8}
YES = {"DOSE-PREGNANCY": "not_applicable", "DOSE-TAPER": "yes", "DOSE-DRUG-SCREEN": "yes"}
SESSIONS, SIGNALS = "/v1/dosing-sessions", "/v1/safety-signals"


def at(hour: str, day: str = DAY) -> str:
    return f"{day}T{hour}:00Z"


def cssrs(*yes: int) -> dict[str, Any]:
    """A C-SSRS since the last visit with a yes to these questions."""
    items = {f"CSSRS_SLV_{number:02d}": int(number in yes) for number in range(1, 11)}
    return {"instrument": "CSSRS_SLV", "items": items}


def after_dose(*yes: int) -> dict[str, Any]:
    """The same form, once more before the participant leaves."""
    return {**cssrs(*yes), "instrument": "CSSRS_SLV_END"}


def suicidal(value: int = 4) -> dict[str, Any]:
    """A MADRS with this answer to its tenth item, and 2 to the others."""
    return madrs(*([2] * 9), value)


def held(caller: Caller, pid: str, code: str, on: str, **more: Any) -> Any:
    """A visit that took place."""
    body = {"participant": pid, "visit_code": code, "occurred_on": on, "status": "completed", **more}
    answer = caller.post("/v1/visits", body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def prepared(caller: Caller, pid: str) -> Any:
    """The first dosing visit of somebody who had the visits before it."""
    for number, code in enumerate(("BL", "PREP1", "PREP2", "PREP3")):
        held(caller, pid, code, f"2025-02-1{number}")
    return held(caller, pid, "DOS1", DAY)


def start(visit_id: str, day: str = DAY, **changes: Any) -> dict[str, Any]:
    """What starts a session that nothing speaks against."""
    vitals = {"timepoint": "PRE", "taken_at": at("08:45", day), "values": CALM}
    body = {"visit": visit_id, "started_at": at("09:00", day), "staff": ["T01", "T02"], "confirmations": YES}
    return {**body, "vitals": vitals, **changes}


def dose(kind: str = "initial", mg: float = 80, hour: str = "09:15", **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "planned_mg": mg, "given_mg": mg, "given_at": at(hour), **changes}


def vitals(timepoint: str | None, hour: str, **values: float) -> dict[str, Any]:
    named = {} if timepoint is None else {"timepoint": timepoint}
    return {**named, "taken_at": at(hour), "values": {**CALM, **values}}


def closing(**changes: Any) -> dict[str, Any]:
    discharge = ["DISCHARGE-ORIENTED", "DISCHARGE-STEADY", "DISCHARGE-COMPANY"]
    return {"ended_at": at("17:00"), "released_at": at("18:00"), "discharge": discharge, **changes}


def a_session(world: World, site: str = "A") -> Response:
    """A session that was started."""
    caller = staff(world, site)
    answer = caller.post(SESSIONS, start(prepared(caller, world.enrolled(site))["id"]))
    assert answer.status_code == 201, answer.text
    return answer


def a_session_to_close(world: World, site: str = "A") -> Response:
    """A session with its dose, that only waits to be closed."""
    caller, session = staff(world, site), a_session(world, site)
    path, read = session.headers["Location"], session.json()
    outcome = {"participant": read["participant"], "visit": read["visit"], **after_dose()}
    for where, body in (
        (f"{path}/doses", dose()),
        (f"{path}/vitals", vitals("END", "17:00")),
        ("/v1/outcomes", outcome),
    ):
        answer = caller.post(where, body)
        assert answer.status_code == 201, answer.text
    return caller.get(path)


def a_signal(world: World, site: str = "A") -> Response:
    """An open signal, raised by a visit."""
    caller, pid = staff(world, site), world.enrolled(site)
    held(caller, pid, "BL", "2025-02-10", outcomes=[suicidal()])
    (signal,) = caller.get(SIGNALS, participant=pid).json()["items"]
    return caller.get(f"{SIGNALS}/{signal['id']}")


REVIEW = {"decision": "managed", "assessment": "Seen today, safety plan agreed"}


def path_of(record: Response, below: str = "") -> str:
    """The path of a session, or of something in it."""
    read = record.json()
    own = {"session_id": read["id"], "reading_id": read["vitals"][0]["id"]}
    if read["doses"]:
        own["dose_id"] = read["doses"][0]["id"]
    return f"{SESSIONS}/{{session_id}}{below}".format(**own)


AMENDMENTS: Mapping[str, Mapping[str, Any]] = {
    "": {"staff": ["T01", "T03"]},
    "/doses/{dose_id}": {"given_mg": 90, "planned_mg": 90},
    "/vitals/{reading_id}": {"values": {"PULSE": 72}},
}
"""A correction of each part of a session."""


def _amend(below: str) -> Any:
    def case(world: World, caller: Caller, site: str) -> Response:
        record = a_session_to_close(world, site) if "dose" in below else a_session(world, site)
        body = {"reason": "typed wrongly", **AMENDMENTS[below]}
        return caller.patch(path_of(record, below), body, record.headers["ETag"])

    return case


def _post(below: str, body: Mapping[str, Any]) -> Any:
    def case(world: World, caller: Caller, site: str) -> Response:
        record = a_session_to_close(world, site) if below == "/close" else a_session(world, site)
        return caller.post(path_of(record, below), body)

    return case


def _start(world: World, caller: Caller, site: str) -> Response:
    return caller.post(SESSIONS, start(prepared(staff(world, site), world.enrolled(site))["id"]))


ONE = f"{SESSIONS}/{{session_id}}"
DOSING_CASES: Mapping[tuple[str, str], Any] = {
    ("POST", SESSIONS): _start,
    ("GET", ONE): read_of(a_session),
    ("PATCH", ONE): _amend(""),
    ("POST", f"{ONE}/doses"): _post("/doses", dose()),
    ("PATCH", f"{ONE}/doses/{{dose_id}}"): _amend("/doses/{dose_id}"),
    ("POST", f"{ONE}/vitals"): _post("/vitals", vitals("M60", "10:15")),
    ("PATCH", f"{ONE}/vitals/{{reading_id}}"): _amend("/vitals/{reading_id}"),
    ("POST", f"{ONE}/close"): _post("/close", closing()),
    ("GET", f"{SIGNALS}/{{signal_id}}"): lambda world, caller, site: caller.get(
        f"{SIGNALS}/{a_signal(world, site).json()['id']}"
    ),
    ("POST", f"{SIGNALS}/{{signal_id}}/review"): lambda world, caller, site: caller.post(
        f"{SIGNALS}/{a_signal(world, site).json()['id']}/review", REVIEW
    ),
}
