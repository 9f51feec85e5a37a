"""The demo's dosing days: the requests of a site, from the start of a session to its close."""

from datetime import date, timedelta
from typing import Any, NamedTuple

from app.demo.questionnaires import drawn
from app.protocol.schedule import shipped_protocols

Body = dict[str, Any]
STAFF = ["T01", "T02"]
RATER = "R01"
FIRST_MG, SECOND_MG = 80, 120
GIVEN_AT, SUPPLEMENT_AFTER, ENDED_AFTER = 9 * 60 + 30, 110, 420
"""Minutes: after midnight, after the initial dose, after it again."""

CALM = {"SYSBP": 118, "DIABP": 76, "PULSE": 70, "TEMP": 36.7}
RISE = {"SYSBP": 26, "DIABP": 14, "PULSE": 24, "TEMP": 0.5}
"""The largest rise of each value after the dose, which stays within the protocol's warning limits."""


class DosingDay(NamedTuple):
    """The requests of one session in order: its start, then (path below the session, body) of each further one."""

    start: Body
    below: list[tuple[str, Body]]


def dosing_day(number: int, code: str, day: date) -> DosingDay:
    """The dosing day of participant `number`; the caller adds the visit's id to the start."""
    protocol = shipped_protocols()["mdma-mdd-generic/1"]
    assert protocol.vitals is not None
    milligrams = FIRST_MG if code == "DOS1" else SECOND_MG
    minutes = {"initial_dose": GIVEN_AT, "supplemental_dose": GIVEN_AT + SUPPLEMENT_AFTER}
    minutes["session_end"] = GIVEN_AT + ENDED_AFTER
    dated: list[tuple[int, str, Body]] = [
        (GIVEN_AT, "/doses", _dose("initial", milligrams, _at(day, GIVEN_AT))),
        (
            minutes["supplemental_dose"],
            "/doses",
            _dose("supplemental", milligrams // 2, _at(day, minutes["supplemental_dose"])),
        ),
    ]
    before: Body = {}
    for point in protocol.vitals.timepoints:
        at = minutes[point.counted_from] + point.minutes
        values = {code: _value(number, code, point.code) for code in point.measures}
        reading = {"timepoint": point.code, "taken_at": _at(day, at), "values": values}
        if point.code == "PRE":
            before = reading
        else:
            dated.append((at, "/vitals", reading))
    start = {"started_at": _at(day, GIVEN_AT - 10), "staff": STAFF, "confirmations": _confirmed(), "vitals": before}
    ended = _at(day, minutes["session_end"])
    close = {"ended_at": ended, "released_at": _at(day, minutes["session_end"] + 60), "discharge": _checked()}
    return DosingDay(start, [*((path, body) for _, path, body in sorted(dated, key=_when)), ("/close", close)])


def therapy(kind: str) -> Body | None:
    """The therapy session that a preparation or integration visit is."""
    return {"minutes": 90, "mode": "in_person", "staff": STAFF} if kind in {"preparation", "integration"} else None


def _when(item: tuple[int, str, Body]) -> int:
    return item[0]


def _dose(kind: str, milligrams: int, at: str) -> Body:
    return {"kind": kind, "planned_mg": milligrams, "given_mg": milligrams, "given_at": at}


def _at(day: date, minutes: int) -> str:
    return f"{day + timedelta(days=minutes // 1440)}T{minutes // 60 % 24:02d}:{minutes % 60:02d}:00Z"


def _value(number: int, measure: str, timepoint: str) -> float:
    rise = 0.0 if timepoint in {"PRE", "END"} else RISE[measure]
    return round(CALM[measure] + rise * drawn(100, number, measure, timepoint) / 100, 1)


def _confirmed() -> Body:
    dosing = shipped_protocols()["mdma-mdd-generic/1"].dosing
    assert dosing is not None
    asked = [rule for rule in dosing.preconditions if rule.rule == "confirmed"]
    return {rule.code: "not_applicable" if rule.may_not_apply else "yes" for rule in asked}


def _checked() -> list[str]:
    dosing = shipped_protocols()["mdma-mdd-generic/1"].dosing
    assert dosing is not None
    return [item.code for item in dosing.discharge if item.needs == "confirmation"]
