"""What was voided counts as never recorded: two studies are compared, and every statement is looked at."""

import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import Engine, event

from tests.voided_study import Twin
from tests.world import Registry, World

OF_NO_RECORD = frozenset(
    {
        *("/.well-known/jwks.json", "/docs", "/docs/start.js", "/docs/{asset}", "/healthz", "/metrics", "/readyz"),
        *("/v1/openapi.json", "/v1/problems/{code}", "/v1/codebook", "/v1/me", "/v1/sync", "/v1/deliveries"),
        *("/v1/clients", "/v1/clients/{client_id}", "/v1/users", "/v1/users/{user_id}", "/v1/subscriptions"),
        *("/v1/subscriptions/{subscription_id}", "/v1/studies", "/v1/studies/{study}/sites", "/v1/locks"),
        *("/v1/studies/{study}/protocols", "/v1/studies/{study}/protocols/{version}", "/v1/locks/{lock_id}"),
        *("/v1/label-disclosures", "/v1/label-disclosures/{disclosure_id}", "/v1/pid-reservations", "/v1/data-cuts"),
        "/v1/pid-reservations/{reservation_id}",
    }
)
"""Routes that read nothing of what is voided."""

NOT_COMPARED: Mapping[str, str] = {
    "/v1/audit-entries": "tells of the voiding itself",
    "/v1/changes": "tells of the voiding itself",
    "/v1/data-queries/{query_id}": "as the list has it",
    "/v1/extracts": "its files are compared",
    "/v1/extracts/{extract_id}": "its files are compared",
    "/v1/extracts/{extract_id}/files/{name}": "is compared by profile",
    "/v1/participants/{pid}/history": "the participant's own entries",
    "/v1/participants/{pid}/treatments/{treatment_id}": "as the list has it",
    "/v1/safety-signals/{signal_id}": "as the list has it",
    "/v1/signatures/{signature_id}": "as the list has it",
    "/v1/verifications/{verification_id}": "as the list has it",
}
_BY_ID = "by its id, under which it can still be read, or is refused"
SILENT: Mapping[str, str] = {
    **dict.fromkeys(("adverse_events.row_of", "outcome_reads.read_one", "visits.detail"), _BY_ID),
    **dict.fromkeys(("dosing_sessions.start", "dosing_day.dosing_day"), _BY_ID),
    **dict.fromkeys(
        (
            "outcome_corrections.lock_outcome",
            "outcome_corrections.lock_visit",
            "sae_reports.report",
            "verifications._held",
        ),
        _BY_ID,
    ),
    **dict.fromkeys(("voided_records.void_adverse_event", "voided_records.void_visit"), _BY_ID),
    **dict.fromkeys(("dosing_day.hold_session", "dosing_reads.detail"), _BY_ID),
    "dosing_day.doses_of": "of one session, which was read by its id",
    **dict.fromkeys(("vital_readings.not_voided", "treatments._one"), _BY_ID),
    **dict.fromkeys(("participants.visible_person", "participant_facts.participant_facts"), _BY_ID),
    **dict.fromkeys(("sae_clocks._protocol_versions", "visit_findings._courses"), "of those whose records count"),
    "pid_reservations.fresh": "a pid is used once",
    "screenings.recorded": "all of them are told, voided ones marked, and no number is used twice",
    **dict.fromkeys(("ae_reviews.review", "locks._of_a_participant", "nullifications._holds"), _BY_ID),
    "safety_signals.rules_holding": "the source of an open signal, which waits for its review all the same",
    **dict.fromkeys(("consents.consents_of", "consents.withdrawals_of"), "all of them are told, voided ones marked"),
    "visits._outcomes_of": "of a voided visit, those that went with it",
}
"""Who reads these tables without asking which rows count, and why."""

_NAMES = (
    "participant|screening|visit|outcome|adverse_event|dosing_session|dose|vital_reading|treatment_trial|consent|"
    "withdrawal"
)
_TABLES = re.compile(rf"(?:FROM|JOIN|,)\s+(?:main\.|public\.)?({_NAMES})\b(?![.(]| TEXT)(?:\s+AS\s+(\w+))?")
_PERSON = {"participant"}
_COUNT_WITH = {
    **dict.fromkeys(("visit", "adverse_event", "treatment_trial", "consent", "screening"), _PERSON),
    "extract_subject": _PERSON,
    "outcome": {"visit"} | _PERSON,
    "dosing_session": {"visit", "dose"} | _PERSON,
}
"""No outcome and no session outlives its visit, no dose its session, and nothing at all its participant; of the people
of an extract a consent counted. A reading can be voided by itself."""


class Reads:
    """The statements on these tables that do not say which of their rows count, by whoever made them."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}
        self.looked = 0

    def look(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not re.match(r"\s*(SELECT|WITH)\b", statement):
            return
        self.looked += 1
        if _is_silent(statement):
            self.seen.setdefault(_whose(), statement)


@cache
def _is_silent(statement: str) -> bool:
    named = {alias or table: table for table, alias in _TABLES.findall(statement)}
    silent = {name for name in named if not re.search(rf"\b{name}\.voided_at IS (NOT )?NULL", statement)}
    told = {table for name, table in named.items() if name not in silent}
    told |= {"extract_subject"} & set(re.findall(r"\w+", statement))
    return any(named[name] not in {held for one in told for held in _COUNT_WITH.get(one, ())} for name in silent)


def _whose() -> str:
    """The function that asks, as module.function."""
    every = (frame.f_code for frame, _ in traceback.walk_stack(None))  # without its text, of some thousand statements
    ours = (code for code in every if "/app/" in code.co_filename or "/tests/" in code.co_filename)
    asking = next(code for code in ours if not code.co_filename.endswith(_CARRIERS))
    return f"{asking.co_filename.rpartition('/')[2].removesuffix('.py')}.{asking.co_name}"


_CARRIERS = ("pagination.py", "access.py", "database.py", "test_voided_everywhere.py", "reading.py", "extract_csv.py")
"""They execute what others made."""


@contextmanager
def reads() -> Iterator[Reads]:
    found = Reads()
    event.listen(Engine, "before_cursor_execute", found.look)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", found.look)


class Both:
    def __init__(self, registry: Registry) -> None:
        with reads() as self.reads:
            self.plain, self.erred = (Twin(World(registry), errs=errs) for errs in (False, True))
            self.plain.is_passed_over()
            self.erred.is_passed_over()
            self.told = self.plain.told(), self.erred.told()
            profiles = ("pseudonymised", "deidentified", "aggregate")
            self.released = {
                one: [twin.released(twin.extract(one)) for twin in (self.plain, self.erred)] for one in profiles
            }


@pytest.fixture(scope="module")
def both(registry: Registry) -> Both:
    return Both(registry)


def test_every_read_is_the_same_as_if_it_had_never_been_recorded(both: Both) -> None:
    plain, erred = both.told
    assert plain.keys() == erred.keys()
    for name in plain:
        assert erred[name] == plain[name], name


@pytest.mark.parametrize("profile", ["pseudonymised", "deidentified", "aggregate"])
def test_extracts_of_every_profile_have_the_same_rows_and_risks(both: Both, profile: str) -> None:
    plain, erred = both.released[profile]
    assert erred == plain
    assert any(plain["rows"].values())


def test_something_was_voided_of_every_kind(both: Both) -> None:
    for path, most in (("visits", 10), ("outcomes", 10), ("adverse-events", 5), ("dosing-sessions", 2)):
        asked = {"study": both.erred.world.study, "voided": "true"}
        assert len(both.erred.world.monitor.get(f"/v1/{path}", **asked).json()["items"]) >= most, path
    person, session = f"/v1/participants/{both.erred.people['first']}", both.erred.records["session"]
    for path, name in ((f"{person}/treatments", "voided"), (session, "voided_vitals")):
        assert both.erred.world.monitor.get(path).json()[name], path
    for site in (both.erred.world.staff_a, both.erred.world.staff_b):
        assert len(site.get("/v1/participants", voided="true").json()["items"]) == 2
    people = both.erred.people.values()
    told = [both.erred.world.monitor.get(f"/v1/participants/{pid}/consents").json() for pid in people]
    for kind, most in (("consents", 3), ("withdrawals", 1)):
        assert sum(bool(row["voided_at"]) for one in told for row in one[kind]) >= most, kind


def test_every_route_that_reads_is_compared_or_says_why_not(registry: Registry, both: Both) -> None:
    routes = {one.path for one in iter_route_contexts(registry.app.routes) if "GET" in (one.methods or ())}
    paths = {path for _, _, path, _ in both.plain.reads()}
    compared = {
        route
        for route in routes
        if any(re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", route), path) for path in paths if path not in routes - {route})
    }
    assert routes - compared == OF_NO_RECORD | NOT_COMPARED.keys()


def test_every_statement_says_which_rows_count(both: Both) -> None:
    """A new one that does not fails here, unless it is told above why."""
    unsaid = {who: statement for who, statement in both.reads.seen.items() if who not in SILENT}
    assert not unsaid, "\n\n".join(f"{who}: {statement}" for who, statement in unsaid.items())
    assert both.reads.seen.keys() == SILENT.keys()
    assert both.reads.looked > 1_000
