"""Closed data do not change: every clinical write, under every freeze and lock that covers it (ICH E6(R3) 4.2)."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response
from sqlmodel import col, select

from app.models.audit import AuditEntry
from app.models.data_lock import LockScope
from tests.closing_cases import a_lock
from tests.course_cases import ONE_TREATMENT, TREATMENT
from tests.hostile import census, grown
from tests.hot_requests import statements
from tests.route_cases import CASES, Route
from tests.test_acknowledged_means_stored import WRITES, ready_to_send
from tests.test_permissions import MATRIX, STAFF
from tests.voided_cases import RECORDS, void
from tests.world import Caller, Registry, World, made, madrs, staff
from tests.writing_routes import writing_routes

WHY = "cleaning for the interim look"
VOIDED = [*RECORDS][:3]
"""Of an event, an outcome and a visit."""
DIED = {"criteria": {"hospitalisation": True, "death": True}, "outcome": "fatal", "end": "2025-03-01"}
NOT_CLINICAL: frozenset[Route] = frozenset(
    {
        ("POST", "/v1/participants/lookup"),
        ("POST", "/v1/pid-reservations"),
        ("POST", "/v1/pid-reservations/{reservation_id}/closure"),
        ("POST", "/v1/signatures"),
        ("POST", "/v1/me/password"),
        ("POST", "/v1/me/totp"),
        ("POST", "/v1/me/totp/confirmation"),
        ("POST", "/v1/data-queries/{query_id}/answers"),
        ("POST", "/v1/participants/{pid}/withdrawals"),
        ("POST", "/v1/adverse-events/{event_id}/reports"),
        ("POST", "/v1/safety-signals/{signal_id}/review"),
    }
)
"""What site staff may write although the data are closed: none of it changes what was recorded, and no lock suspends a
participant's right to take consent back (ICH E6(R3) 2.8.10) or the duty to report and review what is serious."""


class Record:
    """A participant with a visit, an outcome and an adverse event, and the writes that would change or extend them."""

    def __init__(self, world: World, site: str) -> None:
        self.world, self.site, self.staff = world, site, staff(world, site)
        self.person = made(world, site, "/v1/participants", world.enrolment(site))
        self.pid = self.person.json()["pid"]
        self.visit = made(world, site, "/v1/visits", world.visit(self.pid, outcomes=[madrs(2)]))
        self.empty_visit = made(world, site, "/v1/visits", world.visit(self.pid, "UNS", "2025-02-20"))
        self.treatment = made(world, site, f"/v1/participants/{self.pid}/treatments", TREATMENT)
        self.event = made(world, site, "/v1/adverse-events", world.event(self.pid))
        outcome = self.visit.json()["outcomes"][0]["id"]
        self.outcome = self.staff.get(f"/v1/outcomes/{outcome}")

    def writes(self) -> dict[Route, Callable[[], Response]]:
        post, pid = self.staff.post, self.pid
        status = {"status": "active", "effective_on": "2025-02-01", "reason": "first dosing"}
        return {
            ("POST", "/v1/participants"): lambda: post("/v1/participants", self.world.enrolment(self.site)),
            ("PATCH", "/v1/participants/{pid}"): self._amended(self.person, f"participants/{pid}", age_at_consent=52),
            ("POST", "/v1/participants/{pid}/status"): lambda: post(f"/v1/participants/{pid}/status", status),
            ("PATCH", ONE_TREATMENT): self._amended(
                self.treatment, f"participants/{pid}/treatments/{self.treatment.json()['id']}", weeks=6
            ),
            ("POST", "/v1/visits"): lambda: post(
                "/v1/visits", self.world.visit(pid, "UNS", "2025-02-21", occurrence=2)
            ),
            ("PATCH", "/v1/visits/{visit_id}"): self._amended(
                self.visit, f"visits/{self.visit.json()['id']}", occurred_on="2025-01-26"
            ),
            ("POST", "/v1/outcomes"): lambda: post("/v1/outcomes", self._new_outcome()),
            ("PATCH", "/v1/outcomes/{outcome_id}"): self._amended(
                self.outcome, f"outcomes/{self.outcome.json()['id']}", items={"MADRS_01": 4}
            ),
            ("POST", "/v1/adverse-events"): lambda: post("/v1/adverse-events", self.world.event(pid, term="Nausea")),
            ("PATCH", "/v1/adverse-events/{event_id}"): self._amended(
                self.event, f"adverse-events/{self.event.json()['id']}", severity="severe"
            ),
            **dict(zip(VOIDED, map(self._voided, (self.event, self.outcome, self.visit)), strict=True)),
        }

    def _amended(self, record: Response, path: str, **change: Any) -> Callable[[], Response]:
        seen = record.headers["ETag"]
        return lambda: self.staff.patch(f"/v1/{path}", {"reason": "typed wrongly", **change}, seen)

    def _voided(self, record: Response) -> Callable[[], Response]:
        path = record.headers.get("Location") or f"/v1/outcomes/{record.json()['id']}"
        return lambda: void(self.staff, path, self.staff.get(path).headers["ETag"])

    def _new_outcome(self) -> dict[str, Any]:
        return {"participant": self.pid, "visit": self.empty_visit.json()["id"], **madrs(1)}

    def scope(self, scope: LockScope) -> dict[str, Any]:
        """What to close in this scope."""
        return {
            LockScope.participant: {"participant": self.pid},
            LockScope.visit: {"visit": self.visit.json()["id"]},
            LockScope.visit_code: {"visit_code": "BL", "site": self.site},
            LockScope.site: {"site": self.site},
            LockScope.study: {},
        }[scope]

    def lock(self, scope: LockScope, kind: str = "lock", **changes: Any) -> Response:
        about = {"kind": kind, "study": self.world.study, "reason": WHY, **self.scope(scope), **changes}
        answer = self.world.monitor.post("/v1/locks", about)
        assert answer.status_code == 201, answer.text
        return answer

    def reads(self) -> list[Response]:
        paths = [record.headers["Location"] for record in (self.person, self.visit, self.event)]
        return [caller.get(path) for path in paths for caller in (self.staff, self.world.monitor)]


def lift(world: World, lock: Response, caller: Caller | None = None, reason: str = "a late page came in") -> Response:
    return (caller or world.monitor).post(f"{lock.headers['Location']}/lifting", {"reason": reason})


OF_A_VISIT: frozenset[Route] = frozenset(
    {("PATCH", "/v1/visits/{visit_id}"), ("PATCH", "/v1/outcomes/{outcome_id}"), *VOIDED[1:]}
)
EVERYTHING = frozenset(
    {
        ("PATCH", "/v1/participants/{pid}"),
        ("PATCH", ONE_TREATMENT),
        ("POST", "/v1/participants/{pid}/status"),
        ("POST", "/v1/visits"),
        ("POST", "/v1/outcomes"),
        ("POST", "/v1/adverse-events"),
        ("PATCH", "/v1/adverse-events/{event_id}"),
        *VOIDED,
        *OF_A_VISIT,
    }
)
COVERED: Mapping[LockScope, frozenset[Route]] = {
    LockScope.visit: OF_A_VISIT,
    LockScope.visit_code: OF_A_VISIT,
    LockScope.participant: EVERYTHING,
    LockScope.site: EVERYTHING | {("POST", "/v1/participants")},
    LockScope.study: EVERYTHING | {("POST", "/v1/participants")},
}
"""What is refused when the whole of this is closed. The visit is a baseline; the new visit is an unscheduled one."""

PASSES_A_FREEZE = frozenset({("POST", "/v1/adverse-events")})
"""A clock that the law has set does not wait until the data are clean."""


def clinical_writes(registry: Registry) -> set[Route]:
    """Every route of the application that commits something for site staff, but for NOT_CLINICAL."""
    return {route for route in writing_routes(registry) if MATRIX.get(route, frozenset()) & STAFF} - NOT_CLINICAL


CLINICAL = sorted(route for route in WRITES if MATRIX.get(route, frozenset()) & STAFF and route not in NOT_CLINICAL)


def test_every_clinical_write_is_tried_here(registry: Registry, world: World) -> None:
    """A new route that writes for site staff fails here until it is listed, and below until it asks for the lock."""
    assert clinical_writes(registry) == set(CLINICAL)
    assert clinical_writes(registry) >= set(Record(world, "A").writes()) == EVERYTHING | {("POST", "/v1/participants")}
    assert set(COVERED) == set(LockScope)
    assert CASES.keys() >= NOT_CLINICAL


@pytest.mark.by_turns  # that every route asks; what it is told comes on both engines below, in every scope
@pytest.mark.parametrize("route", CLINICAL, ids=" ".join)
def test_a_locked_site_writes_nothing_until_it_is_opened(world: World, route: Route) -> None:
    send, rows = ready_to_send(world, route), WRITES[route]
    lock = world.monitor.post("/v1/locks", {"kind": "lock", "study": world.study, "site": "A", "reason": WHY})
    before = census(world.registry.database.engine)
    answer = send()
    assert (answer.status_code, answer.json()["code"]) == (423, "data_locked")
    assert census(world.registry.database.engine) == before
    assert lift(world, lock).status_code == 201
    before = census(world.registry.database.engine)
    assert send().is_success
    assert rows.items() <= grown(before, census(world.registry.database.engine)).items()


@pytest.mark.parametrize("route", sorted(NOT_CLINICAL), ids=" ".join)
def test_what_no_lock_suspends_is_done_at_a_locked_site(world: World, route: Route) -> None:
    send = ready_to_send(world, route)
    world.monitor.post("/v1/locks", {"kind": "lock", "study": world.study, "site": "A", "reason": WHY})
    assert send().is_success


@pytest.mark.by_turns
@pytest.mark.parametrize("kind", ["freeze", "lock"])
@pytest.mark.parametrize("scope", LockScope)
def test_closed_data_are_read_and_not_written_until_somebody_opens_them(
    world: World, scope: LockScope, kind: str
) -> None:
    record, elsewhere = Record(world, "A"), Record(world, "B")
    covered = COVERED[scope] - (PASSES_A_FREEZE if kind == "freeze" else set())
    lock = record.lock(scope, kind)
    for route, write in record.writes().items():
        answer = write()
        if route in covered:
            assert (answer.status_code, answer.json()["code"]) == (423, "data_locked"), route
            assert answer.json()["locks"] == [{"id": lock.json()["id"], "kind": kind, "scope": scope}]
        else:
            assert answer.is_success, (route, answer.text)
    assert all(answer.status_code == 200 for answer in record.reads())
    for route, write in elsewhere.writes().items():
        assert (write().status_code == 423) == (scope is LockScope.study and route in covered), route
    assert lift(world, lock).status_code == 201
    for route, write in record.writes().items():
        answer = write() if route in covered else None
        assert answer is None or answer.is_success, (route, answer.text)


@pytest.mark.parametrize("scope", [LockScope.visit, LockScope.visit_code])
def test_a_closed_visit_takes_no_new_outcome_and_its_code_no_new_visit(world: World, scope: LockScope) -> None:
    record = Record(world, "A")
    closed = {"visit": record.empty_visit.json()["id"]} if scope is LockScope.visit else {"visit_code": "UNS"}
    record.lock(scope, **closed)
    writes = record.writes()
    assert writes["POST", "/v1/outcomes"]().status_code == 423
    assert writes["POST", "/v1/visits"]().status_code == (423 if scope is LockScope.visit_code else 201)
    other = made(world, "B", "/v1/visits", world.visit(world.enrolled("B"), "UNS", "2025-02-20"))
    assert other.status_code == 201


def test_a_retry_of_a_record_stored_before_the_lock_gets_the_first_answer(world: World) -> None:
    pid, key = world.enrolled(), str(uuid4())
    visit = world.staff_a.post("/v1/visits", world.visit(pid), key)
    change = {"occurred_on": "2025-01-26", "reason": "typed wrongly"}
    amended = world.staff_a.patch(visit.headers["Location"], change, visit.headers["ETag"])
    world.monitor.post("/v1/locks", {"kind": "lock", "study": world.study, "site": "A", "reason": WHY})
    again = world.staff_a.post("/v1/visits", world.visit(pid), key)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    same = world.staff_a.patch(visit.headers["Location"], change, amended.headers["ETag"])
    assert same.json() == amended.json()


def test_a_lock_says_what_it_holds_and_who_set_and_lifted_it_when_and_why(world: World) -> None:
    record = Record(world, "A")
    lock = record.lock(LockScope.visit)
    read = lock.json()
    assert (read["participant"], read["visit"]) == (record.pid, record.visit.json()["id"])
    assert (read["site"], read["in_force"], read["reason"]) == ("A", True, WHY)
    assert read["set_by"] == world.monitor.get("/v1/me").json()["id"]
    assert world.staff_a.get(lock.headers["Location"]).json() == read
    lifted = lift(world, lock, world.monitor_a).json()
    assert (lifted["in_force"], lifted["lifting_reason"]) == (False, "a late page came in")
    assert lifted["lifted_by"] == world.monitor_a.get("/v1/me").json()["id"]
    assert lifted["lifted_at"] > lifted["set_at"] == read["set_at"]
    again = lift(world, lock)
    assert (again.status_code, again.json()["code"]) == (409, "lock_lifted")
    with world.registry.database.read() as session:
        told = session.exec(
            select(AuditEntry).where(AuditEntry.subject_id == read["id"]).order_by(col(AuditEntry.seq))
        ).all()
    assert [(entry.action, entry.reason) for entry in told] == [
        ("lock:set", WHY),
        ("lock:lifted", "a late page came in"),
    ]


def test_lifting_needs_a_reason_and_a_monitor(world: World) -> None:
    lock = a_lock(world, "A")
    assert lift(world, lock, reason=" ").status_code == 422
    for caller in (world.staff_a, world.investigator, world.admin):
        assert lift(world, lock, caller).status_code == 403


def test_under_a_freeze_and_a_lock_data_stay_closed_until_both_are_lifted(world: World) -> None:
    record = Record(world, "A")
    freeze, lock = record.lock(LockScope.participant, "freeze"), record.lock(LockScope.site)
    write = record.writes()["POST", "/v1/visits"]
    assert [held["kind"] for held in write().json()["locks"]] == ["lock", "freeze"]
    lift(world, freeze)
    assert [held["id"] for held in write().json()["locks"]] == [lock.json()["id"]]
    lift(world, lock)
    assert write().status_code == 201


def test_a_death_is_told_and_reported_while_the_site_is_frozen(world: World) -> None:
    record = Record(world, "A")
    record.lock(LockScope.site, "freeze")
    death = world.event(record.pid, criteria={"death": True}, outcome="fatal", end="2025-03-01")
    told = world.staff_a.post("/v1/adverse-events", death)
    assert (told.status_code, told.json()["due_at"] is None) == (201, False)
    record.lock(LockScope.site)
    assert world.staff_a.post(f"{told.headers['Location']}/reports", {"kind": "initial"}).status_code == 201


@pytest.mark.parametrize(
    ("kind", "change", "status"),
    [
        ("freeze", {**DIED, "aware_at": "2025-03-01T09:00:00Z"}, 200),
        ("freeze", {**DIED, "severity": "severe"}, 423),
        ("freeze", {"criteria": {"hospitalisation": False}}, 423),
        ("freeze", {"criteria": {"disability": True}}, 200),
        ("freeze", {"criteria": {"hospitalisation": False, "disability": True}}, 423),
        ("freeze", {"aware_at": "2025-03-01T09:00:00Z"}, 423),
        ("lock", DIED, 423),
    ],
    ids=["dies", "was milder", "not serious", "disabled too", "disabled instead", "was known earlier", "dies, locked"],
)
def test_a_freeze_lets_through_what_makes_an_event_more_serious_and_nothing_else(
    world: World, kind: str, change: dict[str, Any], status: int
) -> None:
    record = Record(world, "A")
    event = world.event(record.pid, criteria={"hospitalisation": True})
    told = made(world, "A", "/v1/adverse-events", event)
    record.lock(LockScope.site, kind)
    change = {"reason": "the ward called", **change}
    answer = world.staff_a.patch(told.headers["Location"], change, told.headers["ETag"])
    assert answer.status_code == status, answer.text


def test_the_same_data_are_closed_once_in_each_way(world: World) -> None:
    record = Record(world, "A")
    for scope in LockScope:
        first = record.lock(scope)
        again = world.monitor.post(
            "/v1/locks", {"kind": "lock", "study": world.study, "reason": WHY, **record.scope(scope)}
        )
        assert (again.status_code, again.json()["code"]) == (409, "already_closed")
        assert again.json()["lock"] == {"id": first.json()["id"], "kind": "lock", "scope": scope}
        record.lock(scope, "freeze")


def test_only_a_monitor_of_all_sites_locks_and_unlocks_the_whole_study(world: World) -> None:
    record = Record(world, "A")
    refused = world.monitor_a.post("/v1/locks", {"kind": "lock", "study": world.study, "reason": WHY})
    assert (refused.status_code, refused.json()["code"]) == (403, "study_out_of_reach")
    lock = record.lock(LockScope.study)
    assert lock.json()["site"] is None
    refused = lift(world, lock, world.monitor_a)
    assert (refused.status_code, refused.json()["code"]) == (403, "study_out_of_reach")
    for caller in (world.monitor, world.monitor_a, world.staff_a, world.staff_b):
        listed = caller.get("/v1/locks", study=world.study).json()["items"]
        assert listed == [lock.json()] == [caller.get(lock.headers["Location"]).json()]
    assert lift(world, lock).status_code == 201
    with world.registry.database.read() as session:
        sites = session.exec(select(AuditEntry.site_id).where(AuditEntry.subject_id == lock.json()["id"])).all()
    assert sorted(sites) == sorted([*world.site_ids.values()] * 2)


def test_a_lock_names_one_thing_that_is_there(world: World) -> None:
    record, about = Record(world, "B"), {"kind": "lock", "study": world.study, "reason": WHY}
    post = world.monitor.post
    both = post("/v1/locks", {**about, **record.scope(LockScope.visit), **record.scope(LockScope.participant)})
    assert both.status_code == 422
    assert post("/v1/locks", {**about, "visit_code": "BL"}).status_code == 422
    unknown = post("/v1/locks", {**about, "site": "A", "visit_code": "NEVER"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "visit_code_unknown")
    for scope in (LockScope.visit, LockScope.participant):
        assert post("/v1/locks", {**about, **record.scope(scope), "site": "A"}).status_code == 404
        assert world.monitor_a.post("/v1/locks", {**about, **record.scope(scope)}).status_code == 404


def test_locks_are_found_by_what_they_hold(world: World) -> None:
    record = Record(world, "A")
    locks = {scope: record.lock(scope).json()["id"] for scope in LockScope}
    lift(world, record.lock(LockScope.site, "freeze"))

    def listed(**filters: str) -> list[str]:
        items = world.monitor.get("/v1/locks", study=world.study, **filters).json()["items"]
        return [item["id"] for item in items]

    assert len(listed()) == len(locks) + 1
    assert sorted(listed(in_force="true")) == sorted(locks.values())
    assert len(listed(in_force="false", kind="freeze")) == 1
    assert sorted(listed(participant=record.pid)) == sorted([locks[LockScope.participant], locks[LockScope.visit]])
    assert listed(visit=record.visit.json()["id"]) == [locks[LockScope.visit]]
    assert listed(visit_code="BL") == [locks[LockScope.visit_code]]
    assert listed(site="B") == listed(scope="study") == [locks[LockScope.study]]
    pages, cursor = [], None
    while not pages or cursor:
        page = world.monitor.get("/v1/locks", study=world.study, limit="2", **({"cursor": cursor} if cursor else {}))
        pages, cursor = [*pages, *(item["id"] for item in page.json()["items"])], page.json()["next"]
    assert pages == listed()


HOLDS = re.compile(r"FROM (participant|visit)\b.* FOR (?:NO KEY UPDATE|UPDATE|KEY SHARE|SHARE)", re.DOTALL)


def test_a_lock_of_a_visit_is_taken_after_that_of_its_participant(world: World) -> None:
    """In PostgreSQL two that hold them in different orders would wait for each other. SQLite has one writer."""
    record = Record(world, "A")
    about = {"kind": "freeze", "study": world.study, "visit": record.empty_visit.json()["id"], "reason": WHY}
    writes = [
        record.writes()["POST", "/v1/outcomes"],
        record.writes()["PATCH", "/v1/visits/{visit_id}"],
        lambda: world.monitor.post("/v1/locks", about),
    ]
    database, order = world.registry.served, [] if world.on_sqlite else ["participant", "visit"]
    for write in writes:
        told: list[str] = []
        with statements(database, lambda _cursor, text, _given, told=told: told.append(text)):
            assert write().is_success
        assert list(dict.fromkeys(held[1] for text in told if (held := HOLDS.search(text)))) == order
