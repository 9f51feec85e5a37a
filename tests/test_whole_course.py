"""One participant from screening to the seventh month over HTTP; every step that comes too early is refused."""

from typing import Any

from httpx2 import Response

from tests.courses import given
from tests.dosing_cases import SESSIONS, SIGNALS, after_dose, at, closing, cssrs, dose, start, suicidal, vitals
from tests.route_cases import PASSWORD, with_password
from tests.test_course import answers, criteria, enrol
from tests.world import Caller, World, madrs

FIRST, SECOND = "2025-03-03", "2025-03-31"


class Course:
    """What the site does for one participant, and what it is told when it comes too early."""

    def __init__(self, world: World) -> None:
        self.world, self.staff = world, world.staff_a
        screened = {"enrolled_on": None, "consent": given("2025-01-02"), "eligibility": {"answers": {}}}
        self.pid = self.staff.post("/v1/participants", world.enrolment(**screened)).json()["pid"]
        self.visits: dict[str, Any] = {}

    def visit(self, code: str, on: str, *outcomes: Any, **more: Any) -> Response:
        body = self.world.visit(self.pid, code, on, outcomes=[*outcomes], **more)
        answer = self.staff.post("/v1/visits", body)
        if answer.is_success:
            self.visits[code] = answer.json()
        return answer

    def held(self, code: str, on: str, *outcomes: Any, **more: Any) -> None:
        answer = self.visit(code, on, *outcomes, **more)
        assert answer.status_code == 201, answer.text

    def dosed(self, code: str, day: str) -> None:
        """A whole dosing day; the C-SSRS is asked for once more before the participant may leave."""
        self.held(code, day, cssrs())
        body = start(self.visits[code]["id"], day)
        session = self.staff.post(SESSIONS, body)
        assert session.status_code == 201, session.text
        path = session.headers["Location"]
        moved = {"given_at": at("09:15", day)}
        assert self.staff.post(f"{path}/doses", dose(**moved)).status_code == 201
        for point, hour in (("M60", "10:15"), ("END", "17:00")):
            reading = {**vitals(point, hour), "taken_at": at(hour, day)}
            assert self.staff.post(f"{path}/vitals", reading).status_code == 201
        close = closing(ended_at=at("17:00", day), released_at=at("18:00", day))
        early = self.staff.post(f"{path}/close", close)
        assert (early.status_code, early.json()["code"]) == (409, "discharge_incomplete")
        assert "DISCHARGE-CSSRS" in early.text
        asked = {"participant": self.pid, "visit": self.visits[code]["id"], **after_dose()}
        assert self.staff.post("/v1/outcomes", asked).status_code == 201
        assert self.staff.post(f"{path}/close", close).status_code == 201
        late = self.staff.post(f"{path}/doses", dose("supplemental", 40, given_at=at("11:15", day)))
        assert (late.status_code, late.json()["code"]) == (409, "dosing_session_closed")

    def status(self, name: str, on: str) -> Response:
        body = {"status": name, "effective_on": on, "reason": "as planned"}
        return self.staff.post(f"/v1/participants/{self.pid}/status", body)


def refused(answer: Response, *named: str) -> None:
    assert answer.status_code == 409, answer.text
    assert [code for code in named if code not in answer.text] == []


def test_a_participant_goes_through_the_whole_protocol(world: World) -> None:
    course, staff = Course(world), world.staff_a
    refused(enrol(world, course.pid), "not_eligible")
    assert answers(world, course.pid, **dict.fromkeys(criteria(), "met")).status_code == 201
    assert enrol(world, course.pid).status_code == 201

    course.held("BL", "2025-02-03", suicidal(4), cssrs())
    refused(staff.post(SESSIONS, start(_dosing_visit(course, FIRST))), "DOSE-PREPARED", "DOSE-SIGNAL")
    (signal,) = staff.get(SIGNALS, participant=course.pid).json()["items"]
    assert world.monitor.get(f"{SIGNALS}/{signal['id']}").json()["state"] == "open"
    review = {"decision": "managed", "assessment": "Seen today, safety plan agreed"}
    assert staff.post(f"{SIGNALS}/{signal['id']}/review", review).is_success
    therapy = {"therapy": {"minutes": 90, "mode": "in_person", "staff": ["T01", "T02"]}}
    for number, code in enumerate(("PREP1", "PREP2", "PREP3")):
        course.held(code, f"2025-02-1{number}", cssrs(), **therapy)
    alone = start(course.visits["DOS1"]["id"], staff=["T01"], confirmations={})
    refused(staff.post(SESSIONS, alone), "DOSE-STAFF", "DOSE-TAPER")
    _dose_recorded(course, FIRST)

    assert course.status("active", FIRST).status_code == 201
    course.held("INT1A", "2025-03-04", cssrs(), **therapy)
    rated = {"participant": course.pid, "visit": course.visits["INT1A"]["id"], "rater": "T01", **madrs(2)}
    refused(staff.post("/v1/outcomes", rated), "rater_not_independent")
    early = course.visit("DOS2", "2025-03-10")
    assert (early.status_code, early.json()["code"]) == (409, "visit_outside_window")
    course.dosed("DOS2", SECOND)
    course.held("INT2A", "2025-04-01", cssrs(), **therapy)
    course.held("PRIM", "2025-05-26", madrs(1), cssrs())
    course.held("FU7M", "2025-09-04", madrs(1), cssrs())
    assert course.status("completed", "2025-09-04").status_code == 201

    told = world.monitor.get(f"/v1/participants/{course.pid}/response", instrument="MADRS").json()["items"]
    assert [(one["visit_code"], one["value"], one["response"], one["remission"]) for one in told] == [
        ("BL", 22, False, False),
        ("PRIM", 10, True, True),
        ("FU7M", 10, True, True),
    ]
    read = world.monitor.get(f"/v1/participants/{course.pid}/schedule").json()
    states = {item["visit_code"]: item["state"] for item in read["items"]}
    assert {code: states[code] for code in ("BL", "DOS1", "DOS2", "PRIM", "FU7M")} == dict.fromkeys(
        ("BL", "DOS1", "DOS2", "PRIM", "FU7M"), "done"
    )
    _signed(world, world.investigator, course.pid)


def _dosing_visit(course: Course, day: str) -> str:
    course.held("DOS1", day)
    visit_id: str = course.visits["DOS1"]["id"]
    return visit_id


def _dose_recorded(course: Course, day: str) -> None:
    """The first dosing day: its visit is there already."""
    session = course.staff.post(SESSIONS, start(course.visits["DOS1"]["id"], day))
    assert session.status_code == 201, session.text
    path = session.headers["Location"]
    beyond = course.staff.post(f"{path}/vitals", vitals("M60", "10:15", SYSBP=400))
    assert beyond.status_code == 422
    assert course.staff.post(f"{path}/doses", dose()).status_code == 201
    assert course.staff.post(f"{path}/vitals", vitals("END", "17:00")).status_code == 201
    asked = {"participant": course.pid, "visit": course.visits["DOS1"]["id"], **after_dose()}
    assert course.staff.post("/v1/outcomes", asked).status_code == 201
    assert course.staff.get(path).json()["open_vitals"] != []
    assert course.staff.post(f"{path}/close", closing()).status_code == 201


def _signed(world: World, investigator: Caller, pid: str) -> None:
    with_password(world, investigator)
    sha256 = investigator.get("/v1/signatures/content", participant=pid).json()["content_sha256"]
    body = {"participant": pid, "meaning": "approval", "content_sha256": sha256, "password": PASSWORD}
    answer = investigator.post("/v1/signatures", body)
    assert (answer.status_code, answer.json()["state"]) == (201, "valid")
