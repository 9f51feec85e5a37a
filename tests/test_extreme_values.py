"""At the edges of what is allowed: what was accepted can always be read again, and what cannot be true is refused."""

import unicodedata
from typing import Any

import pytest
from httpx2 import Response

from app.models.base import now
from tests.hostile import census, require_problem
from tests.world import Caller, World, madrs

EMOJI = "\U0001f9e0\u200d\U0001fa79"
LONG = 200
GROWING = ("\ufb2c", "\u0958", "\U0001d160", "\u0344")
"""Characters that NFC makes longer: one sent becomes two or three kept."""

TEXTS = {
    "one character": "a",
    "longest": "x" * LONG,
    "longest, four bytes each": "\U0001f9e0" * LONG,
    "decomposed": "Mu\u0308digkeit e\u0301",
    "right to left": "\u05db\u05d0\u05d1 abc",
    "turned around": "\u05db\u05d0\u05d1 \u202eabc\u202c",
    "quotes and markup": "'\"; DROP TABLE visit; -- <script>&amp;\\ %s {0}",
    "tabs and lines": "a\tb\nc",
    "joined emoji": EMOJI * 40,
    "private use": "\ue000\U0010fffd",
    "noncharacter": "\ufffe\uffff",
    "spaces": "\u00a0\u2003\u3000",
    "JSON text": '{"a": [null, 1e400]}',
    **{f"growing {character!a}": character * LONG for character in GROWING},
}


def require_readable(caller: Caller, answer: Response, listing: str, **named: Any) -> dict[str, Any] | None:
    """What was accepted is read again alone, in the list and in no other form; else it was refused as a problem."""
    if not answer.is_success:
        require_problem(answer)
        return None
    alone = caller.get(answer.headers["Location"])
    assert alone.status_code == 200, alone.text
    shown: dict[str, Any] = alone.json()
    assert {name: shown[name] for name in answer.json()} == answer.json()  # alone a record may show more
    listed = caller.get(listing, limit=500, **named)
    assert listed.status_code == 200, listed.text
    key = "pid" if "pid" in shown else "id"
    assert shown[key] in {item[key] for item in listed.json()["items"]}
    return shown


@pytest.mark.parametrize("kind", TEXTS)
def test_any_text_that_was_accepted_is_read_again(world: World, kind: str) -> None:
    pid, sent = world.enrolled(), TEXTS[kind]
    kept = " ".join(unicodedata.normalize("NFC", sent).split())
    coding = {"system": sent, "term": sent, "level": "soc"}
    event = world.staff_a.post("/v1/adverse-events", world.event(pid, term=sent, codings=[coding]))
    shown = require_readable(world.staff_a, event, "/v1/adverse-events", study=world.study)
    if shown is not None:
        assert (shown["term"], shown["soc"], shown["codings"][0]["system"]) == (kept, kept, kept)
        amended = {"reason": "typed wrongly", "severity": "severe"}
        changed = world.staff_a.patch(event.headers["Location"], amended, event.headers["ETag"])
        assert changed.status_code == 200, changed.text
        assert changed.json()["term"] == kept
        assert world.staff_a.get(f"{event.headers['Location']}/history").status_code == 200
    person = world.staff_a.post("/v1/participants", world.enrolment(race=sent, ethnicity=sent))
    shown = require_readable(world.staff_a, person, "/v1/participants", study=world.study)
    assert shown is None or (shown["race"], shown["ethnicity"]) == (kept, kept)


@pytest.mark.parametrize("length", [4000, 4001])
@pytest.mark.parametrize("character", ["x", "\U0001f9e0", *GROWING], ids=ascii)
def test_a_long_reason_is_read_again(world: World, character: str, length: int) -> None:
    reason = "no " + character * (length - 3)
    body = world.visit(world.enrolled(), deviation_reason=reason)
    shown = require_readable(world.staff_a, world.staff_a.post("/v1/visits", body), "/v1/visits", study=world.study)
    assert (shown is None) == (len(unicodedata.normalize("NFC", reason)) > 4000)


FIRST, LAST = "1900-01-01", f"{now():%Y-%m-%d}"


@pytest.mark.parametrize("day", [FIRST, LAST])
def test_the_first_and_the_last_day_are_read_again(world: World, day: str) -> None:
    consent = {"version": "1", "given_on": FIRST, "scopes": ["data_sharing", "long_follow_up", "main"]}
    person = world.staff_a.post("/v1/participants", world.enrolment(screened_on=day, enrolled_on=day, consent=consent))
    assert require_readable(world.staff_a, person, "/v1/participants", study=world.study)
    pid = person.json()["pid"]
    for code in ("BL", "FU7M", "SCR", "DOS1", "INT1C", "UNS"):
        reason = "the only day there is"
        visit = world.visit(pid, code, day, ended_on=day, deviation_reason=reason, outcomes=[madrs(0)])
        answer = world.staff_a.post("/v1/visits", visit)
        assert answer.status_code == 201, (code, answer.text)
        assert require_readable(world.staff_a, answer, "/v1/visits", study=world.study)
    event = world.event(pid, onset=day, end=day[:4], outcome="recovered")
    assert require_readable(
        world.staff_a, world.staff_a.post("/v1/adverse-events", event), "/v1/adverse-events", study=world.study
    )


def test_a_visit_whose_window_lies_beyond_the_calendar_is_read_again(world: World) -> None:
    consent = {"version": "1", "given_on": FIRST, "scopes": ["main"]}
    pid = world.enrolled(screened_on=FIRST, enrolled_on=FIRST, consent=consent)
    assert world.staff_a.post("/v1/visits", world.visit(pid, "BL", FIRST)).status_code == 201
    missed = world.visit(pid, "SCR", None, status="missed", deviation_reason="too long ago")
    answer = world.staff_a.post("/v1/visits", missed)
    assert answer.status_code == 201, answer.text
    assert require_readable(world.staff_a, answer, "/v1/visits", study=world.study)


@pytest.mark.parametrize(
    "at",
    [
        "1900-01-01T00:00:00Z",
        "1900-01-01T00:00:00+14:00",
        "2100-12-31T23:59:59Z",
        "2100-12-31T23:59:59.999999-12:00",
        "2100-12-31T00:00:00Z",
        "2024-02-29T23:59:60Z",
        "2024-02-29T12:00:00.123456789Z",
        "2024-02-29T12:00:00+23:59",
    ],
)
@pytest.mark.parametrize("criteria", [{}, {"death": True}], ids=["not serious", "serious"])
def test_any_instant_that_was_accepted_is_read_again(world: World, at: str, criteria: dict[str, bool]) -> None:
    event = world.event(world.enrolled(), aware_at=at, criteria=criteria)
    answer = world.staff_a.post("/v1/adverse-events", event)
    require_readable(world.staff_a, answer, "/v1/adverse-events", study=world.study)


def test_the_largest_visit_is_read_again(world: World) -> None:
    scales = ("MADRS", "SHEEHAN_SDS", "PHQ-9", "GAD-7", "ISI", "WHO-5", "PCL-5")
    empty = [{"instrument": scale, "items": {}} for scale in scales]
    body = world.visit(world.enrolled(), "UNS", occurrence=1000, outcomes=empty, deviation_reason="xy" * 2000)
    answer = world.staff_a.post("/v1/visits", body)
    shown = require_readable(world.staff_a, answer, "/v1/visits", study=world.study)
    assert shown is None or len(shown["outcomes"]) == len(scales)


CONTRADICTIONS: dict[str, tuple[str, dict[str, Any], int]] = {
    "enrolled before screened": ("person", {"screened_on": "2025-01-21"}, 422),
    "enrolled but not eligible": ("person", {"eligibility": {"met": False, "unmet": []}}, 422),
    "eligible with criteria unmet": ("person", {"eligibility": {"met": True, "unmet": ["I1"]}}, 422),
    "an unknown criterion": ("person", {"enrolled_on": None, "eligibility": {"met": False, "unmet": ["NO_1"]}}, 422),
    "an unknown consent": ("person", {"consent": {"version": "99", "given_on": None, "scopes": ["main"]}}, 422),
    "a phone number for a label": ("person", {"site_local_id": "0170-123-456-78"}, 422),
    "ended before it began": ("visit", {"ended_on": "2025-01-24"}, 422),
    "completed without a day": ("visit", {"occurred_on": None}, 422),
    "missed on a day": ("visit", {"status": "missed", "deviation_reason": "ill"}, 422),
    "missed without a reason": ("visit", {"status": "missed", "occurred_on": None}, 422),
    "missed but measured": (
        "visit",
        {"status": "missed", "occurred_on": None, "deviation_reason": "ill", "outcomes": [madrs(1)]},
        422,
    ),
    "the same scale twice": ("visit", {"outcomes": [madrs(1), madrs(2)]}, 422),
    "an item out of range": ("visit", {"outcomes": [madrs(7)]}, 422),
    "a baseline twice": ("visit", {"occurrence": 2}, 422),
    "before any consent": ("visit", {"occurred_on": "2024-12-31"}, 409),
    "ended before its onset": ("event", {"end": "2025-02-02"}, 422),
    "ended the year before": ("event", {"end": "2024", "onset": "2025"}, 422),
    "fatal but no death": ("event", {"outcome": "fatal", "end": "2025-02-04"}, 422),
    "fatal without an end": ("event", {"outcome": "fatal", "criteria": {"death": True}}, 422),
    "recovered without an end": ("event", {"outcome": "recovered"}, 422),
    "a coding level twice": (
        "event",
        {"codings": [{"system": "MedDRA", "term": term, "level": "pt"} for term in ("A", "B")]},
        422,
    ),
}


@pytest.mark.by_turns
@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_what_cannot_be_true_is_refused_and_not_kept(world: World, kind: str) -> None:
    noun, changes, status = CONTRADICTIONS[kind]
    pid = world.enrolled()
    path, body = {
        "person": ("/v1/participants", world.enrolment(**changes)),
        "visit": ("/v1/visits", world.visit(pid, **changes)),
        "event": ("/v1/adverse-events", world.event(pid, **changes)),
    }[noun]
    before = census(world.registry.database.engine)
    problem = require_problem(world.staff_a.post(path, body))
    assert problem["status"] == status, problem
    assert census(world.registry.database.engine) == before


@pytest.mark.parametrize("sent", ["Zq7", "ünïq", "00000000-0000-4000-8000-00000000000g", "0" * 33])
def test_nothing_of_an_invalid_id_is_repeated(world: World, sent: str) -> None:
    refused = world.staff_a.get(f"/v1/visits/{sent}")
    [fault] = require_problem(refused)["errors"]
    assert fault == {"pointer": "/path/visit_id", "code": "uuid_parsing", "message": "Not a UUID"}
