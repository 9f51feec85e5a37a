"""Posts that wait at the same time share a transaction, and each is answered as if it were alone."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from structlog.testing import CapturingLogger

from app import audit
from app.errors import DatabaseUnavailable
from app.models.account import Role
from app.pid import normalise
from app.services.assessments import visits
from app.web import group_commit
from app.web.group_commit import GroupCommit, Post
from tests.dosing_cases import suicidal
from tests.hot_requests import statements
from tests.test_audit_entries import rows
from tests.test_outages import until
from tests.world import Caller, World, madrs, staff

Send = Callable[[], Response]


class Company:
    """One worker's posts, of which the first is held until the others have come."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.first = world, world.enrolled()
        self.shared: list[int] = []
        """How many posts each shared transaction had."""

        self.statements: list[int] = []
        """How many statements it made."""

        self._posts: GroupCommit = world.registry.app.state.group_commit
        self._alone, self._many = self._posts._alone, self._posts._shared
        self.holds, self.held, self.come = False, Event(), Event()
        monkeypatch.setattr(self._posts, "_alone", self._hold)
        monkeypatch.setattr(self._posts, "_shared", self._count)
        monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 30.0)

    def _hold(self, post: Post) -> Any:
        if self.holds and post.body.participant == normalise(self.first):
            self.held.set()
            assert self.come.wait(30)
        return self._alone(post)

    def _count(self, posts: Sequence[Post]) -> Any:
        self.shared.append(len(posts))
        found: list[str] = []
        with statements(self.world.registry.served, lambda _cursor, statement, _given: found.append(statement)):
            told = self._many(posts)
        self.statements.append(len(found))
        return told

    @property
    def waiting(self) -> int:
        return sum(len(line) for line in self._posts._lines.values())

    def of(self, first: Send, *others: Send) -> list[Response]:
        """The answers to the others, who come in this order while the first is at work."""
        self.holds = True
        self.held.clear()
        self.come.clear()
        with ThreadPoolExecutor(1 + len(others)) as threads:
            told = threads.submit(first)
            assert self.held.wait(30)
            come: list[Future[Response]] = []
            for one in others:
                come.append(threads.submit(one))
                until(lambda: self.waiting == len(come))
            self.come.set()
            assert told.result(30).status_code == 201
            return [one.result(30) for one in come]

    def visits(self, *others: Send) -> list[Response]:
        return self.of(self.sends(self.world.staff_a, self.first), *others)

    def sends(self, caller: Caller, pid: str, key: str | None = None, **changes: Any) -> Send:
        body = self.world.visit(pid, **changes)
        return lambda: caller.post("/v1/visits", body, key)


@pytest.fixture
def company(world: World, monkeypatch: pytest.MonkeyPatch) -> Company:
    return Company(world, monkeypatch)


def codes(answers: Sequence[Response]) -> list[Any]:
    return [answer.json().get("code", answer.status_code) for answer in answers]


def test_visits_that_come_while_one_is_at_work_are_stored_in_one_transaction(world: World, company: Company) -> None:
    people = [world.enrolled() for _ in range(8)]
    answers = company.visits(*(company.sends(world.staff_a, pid) for pid in people))
    assert codes(answers) == [201] * 8
    assert company.shared == [8]
    for answer, pid in zip(answers, people, strict=True):
        assert answer.json()["participant"] == pid
        read = world.staff_a.get(answer.headers["Location"])
        assert (read.json(), read.headers["ETag"]) == (answer.json(), answer.headers["ETag"])


def test_outcomes_and_adverse_events_share_as_visits_do_each_with_its_own_kind(world: World, company: Company) -> None:
    people = [world.enrolled() for _ in range(3)]
    recorded = [world.staff_a.post("/v1/visits", world.visit(pid)).json()["id"] for pid in [*people, company.first]]
    outcomes = [
        {"participant": pid, "visit": visit, "collected_on": "2025-01-25", **madrs(1)}
        for pid, visit in zip([*people, company.first], recorded, strict=True)
    ]
    sends = [lambda body=body: world.staff_a.post("/v1/outcomes", body) for body in outcomes]
    assert codes(company.of(sends.pop(), *sends)) == [201] * 3
    events = [world.event(pid) for pid in [*people, company.first]]
    sends = [lambda body=body: world.staff_a.post("/v1/adverse-events", body) for body in events]
    assert codes(company.of(sends.pop(), *sends)) == [201] * 3
    assert company.shared == [3, 3]


@pytest.mark.parametrize("number", [1, 4])
def test_each_entry_of_the_trail_names_its_own_request_and_account(world: World, company: Company, number: int) -> None:
    people = [world.enrolled() for _ in range(number)]
    senders = [(world.caller((Role.site_staff, "A")), world.staff_a)[place % 2] for place in range(number)]
    answers = company.visits(*(company.sends(who, pid) for who, pid in zip(senders, people, strict=True)))
    assert (codes(answers), company.shared) == ([201] * number, [number] if number > 1 else [])
    for answer, pid, who in zip(answers, people, senders, strict=True):
        entries = rows(world.monitor, participant=pid, action="visit:recorded")
        me = who.get("/v1/me").json()["id"]
        assert {(row["request_id"], row["actor"]) for row in entries} == {(answer.headers["X-Request-Id"], me)}
    with world.registry.database.read() as session:
        assert [one.fault for one in audit.verify(session) if one.site_id == world.site_ids["A"]] == [None]


@pytest.mark.parametrize(("site", "patience"), [("B", 30.0), ("A", 0.01)], ids=["another site", "much later"])
def test_a_post_is_not_held_up_by_another_that_waits_for_long(
    world: World, company: Company, monkeypatch: pytest.MonkeyPatch, site: str, patience: float
) -> None:
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", patience)
    pid, company.holds = world.enrolled(site), True
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(company.sends(world.staff_a, company.first))
        assert company.held.wait(30)
        assert codes([staff(world, site).post("/v1/visits", world.visit(pid))]) == [201]
        assert not first.done()
        company.come.set()
        assert first.result(30).status_code == 201


def test_of_a_participant_one_visit_at_a_time_is_stored(world: World, company: Company) -> None:
    pid, other = world.enrolled(), world.enrolled()
    sends = [company.sends(world.staff_a, pid), company.sends(world.staff_a, pid), company.sends(world.staff_a, other)]
    assert codes(company.visits(*sends)) == [201, "visit_already_recorded", 201]
    assert company.shared == [2]


def test_a_refused_post_gets_its_reason_and_costs_the_others_nothing(world: World, company: Company) -> None:
    people = [world.enrolled() for _ in range(2)]
    unknown = company.sends(world.staff_a, world.enrolled(), code="NOPE")
    foreign = company.sends(world.staff_a, world.enrolled("B"))
    answers = company.visits(*(company.sends(world.staff_a, pid) for pid in people), unknown, foreign)
    assert codes(answers) == [201, 201, "visit_unknown", "not_found"]
    assert company.shared == [4]
    assert [answer.json()["request_id"] for answer in answers[2:]] == [
        one.headers["X-Request-Id"] for one in answers[2:]
    ]


def test_a_retry_at_the_same_time_gets_the_same_answer(world: World, company: Company) -> None:
    pid, other, key = world.enrolled(), world.enrolled(), str(uuid4())
    first = company.sends(world.staff_a, pid, key)
    answers = company.visits(first, first, company.sends(world.staff_a, other))
    assert codes(answers) == [201] * 3
    assert answers[0].text == answers[1].text
    assert answers[1].headers["Idempotent-Replayed"] == "true"


def test_a_retry_in_company_is_replayed_and_a_reused_key_is_refused(world: World, company: Company) -> None:
    pid, other, key = world.enrolled(), world.enrolled(), str(uuid4())
    told = world.staff_a.post("/v1/visits", world.visit(pid), key)
    answers = company.visits(
        company.sends(world.staff_a, pid, key),
        company.sends(world.staff_a, other),
        company.sends(world.staff_a, world.enrolled(), key),
    )
    assert codes(answers) == [201, 201, "idempotency_key_reused"]
    assert (answers[0].text, answers[0].headers["Idempotent-Replayed"]) == (told.text, "true")
    assert company.shared == [3]


def test_a_defect_of_one_post_does_not_affect_the_others(
    world: World, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    people, unlucky = [world.enrolled() for _ in range(2)], world.enrolled()
    record = visits.record_visit

    def broken(session: Any, actor: Any, held: Any, body: Any) -> Any:
        return record(session, actor, held, body) if body.participant != normalise(unlucky) else 1 / 0

    monkeypatch.setattr(visits, "record_visit", broken)
    answers = company.visits(*(company.sends(world.staff_a, pid) for pid in [*people, unlucky]))
    assert codes(answers) == [201, 201, "internal_error"]


def test_a_defect_that_only_company_meets_is_logged_with_its_place(
    world: World, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    people, logged = [world.enrolled() for _ in range(2)], CapturingLogger()
    monkeypatch.setattr(group_commit, "log", logged)
    monkeypatch.setattr(company, "_many", lambda _posts: 1 / 0)
    assert codes(company.visits(*(company.sends(world.staff_a, pid) for pid in people))) == [201, 201]
    (told,) = logged.calls
    assert (told.method_name, told.args) == ("error", ("shared_transaction_failed",))
    assert told.kwargs["kind"] == "ZeroDivisionError"
    assert "test_group_commit.py" in told.kwargs["place"]


def test_what_a_safety_form_raises_in_company_it_raises_for_its_own_participant(world: World, company: Company) -> None:
    calm, unsafe = world.enrolled(), world.enrolled()
    form = {"status": "completed", "outcomes": [suicidal()]}
    answers = company.visits(company.sends(world.staff_a, calm), company.sends(world.staff_a, unsafe, **form))
    assert (codes(answers), company.shared) == ([201, 201], [2])
    signals = world.monitor.get("/v1/safety-signals").json()["items"]
    assert {one["participant"] for one in signals} == {unsafe}


def test_a_transaction_takes_so_many_posts_and_the_rest_come_next(
    world: World, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MOST", 3)
    people = [world.enrolled() for _ in range(7)]
    assert codes(company.visits(*(company.sends(world.staff_a, pid) for pid in people))) == [201] * 7
    assert company.shared == [3, 3]


def test_a_shared_transaction_makes_as_many_statements_for_ten_posts_as_for_two(world: World, company: Company) -> None:
    for posts in (2, 10):
        company.first, people = world.enrolled(), [world.enrolled() for _ in range(posts)]
        sends = (company.sends(world.staff_a, pid, code="UNS") for pid in people)
        assert codes(company.visits(*sends)) == [201] * posts
    assert company.shared == [2, 10]
    assert len(set(company.statements)) == 1


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable(), OperationalError("", None, Exception())], ids=["full", "lost"]
)
def test_without_a_connection_all_posts_may_be_retried(
    world: World, company: Company, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    people = [world.enrolled() for _ in range(2)]
    monkeypatch.setattr(company, "_many", failing(error))
    answers = company.visits(*(company.sends(world.staff_a, pid) for pid in people))
    assert codes(answers) == ["database_unavailable"] * 2
    assert {answer.headers["Retry-After"] for answer in answers} == {"1"}


def test_without_a_thread_nobody_waits_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    body = world.visit(world.enrolled())
    with monkeypatch.context() as broken:
        broken.setattr(group_commit, "run_in_threadpool", failing(RuntimeError("can't start new thread")))
        assert codes([world.staff_a.post("/v1/visits", body)]) == ["internal_error"]
    assert codes([world.staff_a.post("/v1/visits", body)]) == [201]


def failing(error: Exception) -> Any:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def test_only_a_post_that_needs_a_held_row_waits_for_it(
    world: World, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world.on_sqlite:
        pytest.skip("has one writer")
    monkeypatch.setattr(group_commit, "LOCK_MILLISECONDS", 50)
    held, people = world.enrolled(), [world.enrolled() for _ in range(2)]
    answered: list[str] = []

    def noted(pid: str) -> Response:
        answer = world.staff_a.post("/v1/visits", world.visit(pid))
        answered.append(pid)
        return answer

    with ThreadPoolExecutor(1) as threads, world.registry.database.engine.connect() as other:
        other.execute(text("SELECT 1 FROM participant WHERE pid = :pid FOR UPDATE"), {"pid": normalise(held)})
        told = threads.submit(company.visits, *(lambda pid=pid: noted(pid) for pid in [held, *people]))
        until(lambda: sorted(answered) == sorted(people))
        assert not told.done()
        other.rollback()
        assert codes(told.result(30)) == [201] * 3
