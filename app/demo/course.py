"""The demo's participants and what happens to them, as bodies of requests. Without randomness: always the same.

Twelve participants run through the whole protocol; one more withdraws before baseline, and one is not eligible.
Nobody here is real.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

from app.demo.dosing import RATER, DosingDay, dosing_day, therapy
from app.demo.events import events_of
from app.demo.questionnaires import answers, drawn, subjects
from app.demo.setup import SITES, STUDY
from app.protocol.schedule import shipped_protocols

Body = dict[str, Any]

FIRST_BASELINE = date(2025, 1, 8)
DAYS_BETWEEN_BASELINES = 4
SCREENED_BEFORE = 21
SATURDAY = 5
CALENDAR = (
    ("PREP1", "BL", 7),
    ("PREP2", "BL", 14),
    ("PREP3", "BL", 21),
    ("DOS1", "BL", 28),
    ("INT1A", "DOS1", 1),
    ("INT1B", "DOS1", 7),
    ("INT1C", "DOS1", 21),
    ("DOS2", "DOS1", 28),
    ("INT2A", "DOS2", 1),
    ("INT2B", "DOS2", 7),
    ("INT2C", "DOS2", 21),
    ("PRIM", "DOS2", 56),
    ("FU7M", "BL", 213),
)
"""Visit, anchor, days after the anchor. A visit on a weekend is moved to Monday, which every window allows."""

MISSED = {(5, "INT2C"): "Ill with a cold; the session was held by telephone and not rated"}
LATE = {(9, "FU7M"): (45, "Abroad for work; seen at the first date possible")}
"""Extra days, which take the visit out of its window, and why."""

WITHDREW, NOT_ELIGIBLE = 13, 14
SHARED = ["main", "long_follow_up", "data_sharing"]


@dataclass(frozen=True)
class Step:
    """One record about a participant. The site app adds the pid."""

    kind: Literal["visit", "adverse event", "status"]
    body: Body
    dosing: DosingDay | None = None
    """What happened on a dosing visit."""


@dataclass(frozen=True)
class Course:
    """One participant: the enrolment to post, and the steps that follow it in time."""

    site: str
    enrolment: Body
    steps: Sequence[Step]


def courses() -> list[Course]:
    """All fourteen, in the order of their numbers."""
    completed = [_completed(number, subject) for number, subject in enumerate(subjects(), 1)]
    return [*completed, _withdrew(), _not_eligible()]


def _site(number: int) -> str:
    return SITES[(number - 1) % len(SITES)]


def _baseline(number: int) -> date:
    return _weekday(FIRST_BASELINE + timedelta(days=DAYS_BETWEEN_BASELINES * (number - 1)))


def _weekday(day: date) -> date:
    return day + timedelta(days=7 - day.weekday() if day.weekday() >= SATURDAY else 0)


def _enrolment(number: int, sex: str, scopes: Sequence[str] = SHARED, unmet: Sequence[str] = ()) -> Body:
    screened = _weekday(_baseline(number) - timedelta(days=SCREENED_BEFORE))
    return {
        "study": STUDY,
        "site": _site(number),
        "site_local_id": f"{_site(number)}-{number:03d}",
        "protocol_version": "1",
        "age_at_consent": 23 + drawn(38, number, "age"),
        "sex": sex,
        "screened_on": screened.isoformat(),
        "consent": {"version": "1", "given_on": screened.isoformat(), "scopes": list(scopes)},
        "eligibility": {"met": not unmet, "unmet": list(unmet)},
    }


def _completed(number: int, subject: str) -> Course:
    enrolment = _enrolment(number, subjects()[subject]["BL"]["sex"])
    days = _days(number, date.fromisoformat(enrolment["screened_on"]))
    dated = [(day, _visit(number, subject, code, day)) for code, day in days.items()]
    dated += [(day, Step("adverse event", body)) for day, body in events_of(number, days)]
    dated += [(days[code], _status(status, days[code], reason)) for status, code, reason in _STATUSES]
    return Course(_site(number), enrolment, [step for _, step in sorted(dated, key=lambda pair: pair[0])])


_STATUSES = (
    ("enrolled", "BL", "Eligible; baseline done"),
    ("active", "DOS1", "First dosing session"),
    ("completed", "FU7M", "Last visit of the protocol"),
)


def _days(number: int, screened: date) -> dict[str, date]:
    """When each visit takes place, or was planned."""
    days = {"SCR": screened, "BL": _baseline(number)}
    for code, anchor, after in CALENDAR:
        late, _ = LATE.get((number, code), (0, ""))
        days[code] = _weekday(days[anchor] + timedelta(days=after + late))
    return days


def _visit(number: int, subject: str, code: str, day: date) -> Step:
    if (number, code) in MISSED:
        missed = {"visit_code": code, "status": "missed", "occurred_on": None}
        return Step("visit", {**missed, "deviation_reason": MISSED[number, code]})
    body: Body = {"visit_code": code, "status": "completed", "occurred_on": day.isoformat()}
    if (number, code) in LATE:
        body["deviation_reason"] = LATE[number, code][1]
    planned = shipped_protocols()["mdma-mdd-generic/1"].visit(code)
    if session := therapy(planned.kind):
        body["therapy"] = session
    dosing = dosing_day(number, code, day) if planned.kind == "dosing" else None
    return Step("visit", {**body, "outcomes": [*_outcomes(subject, code)]}, dosing)


def _outcomes(subject: str, code: str) -> Iterator[Body]:
    """The outcomes that the protocol asks for at a visit. MADRS is rated by somebody who is no therapist."""
    for instrument in shipped_protocols()["mdma-mdd-generic/1"].visit(code).instruments:
        rater = {"rater": RATER} if instrument == "MADRS" else {}
        yield {"instrument": instrument, "items": answers(subject, code, instrument), **rater}


def _status(status: str, day: date, reason: str) -> Step:
    return Step("status", {"status": status, "effective_on": day.isoformat(), "reason": reason})


def _withdrew() -> Course:
    enrolment = _enrolment(WITHDREW, "M")
    left = date.fromisoformat(enrolment["screened_on"]) + timedelta(days=9)
    steps = [_screening(enrolment), _status("withdrawn", left, "No longer wished to take part")]
    return Course(_site(WITHDREW), enrolment, steps)


def _not_eligible() -> Course:
    enrolment = _enrolment(NOT_ELIGIBLE, "F", scopes=["main"], unmet=["EXCL02"])
    return Course(_site(NOT_ELIGIBLE), enrolment, [_screening(enrolment)])


def _screening(enrolment: Body) -> Step:
    body = {"visit_code": "SCR", "status": "completed", "occurred_on": enrolment["screened_on"], "outcomes": []}
    return Step("visit", body)
