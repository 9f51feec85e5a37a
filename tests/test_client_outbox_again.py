"""The client's outbox: whatever is not stored or discarded is tried again by each `send`, so that what time or somebody
else has cured goes through."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from app.models.account import Role, RoleGrant
from app.models.base import now
from registry_client import Outbox, Registry, Token
from tests.test_sync_again import closed, events_of, lift
from tests.world import World


class Inside(httpx.BaseTransport):
    """The registry of the test, without a network; what was asked, and whether answers get lost."""

    def __init__(self, world: World) -> None:
        self._client, self.asked, self.deaf = world.registry.client, list[str](), False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        sent = dict(request.headers) | {"host": "testserver"}
        answer = self._client.request(
            request.method, request.url.raw_path.decode(), content=request.read(), headers=sent
        )
        if self.deaf:
            raise httpx.ReadTimeout("the answer was lost")
        return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)


@pytest.fixture
def inside(world: World) -> Inside:
    return Inside(world)


@pytest.fixture
def app(world: World, inside: Inside) -> Iterator[Registry]:
    with Registry("http://registry", Token(world.staff_a.token), transport=inside, patience=0.0) as app:
        yield app


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    with Outbox(tmp_path / "outbox.db") as box:
        yield box


def code(box: Outbox) -> list[str | None]:
    return [act.problem and act.problem["code"] for act in box.acts()]


def test_what_meets_a_lock_is_kept_with_the_reason_and_stored_once_the_data_are_open(
    world: World, app: Registry, box: Outbox
) -> None:
    pid = world.enrolled()
    lifting = closed(world, pid)
    name = box.add("/v1/adverse-events", world.event(pid))
    box.amend(f"/v1/adverse-events/{name}", name, "misread", severity="severe")
    for _ in range(2):
        assert box.send(app) == 0
        assert [(act.state, act.held) for act in box.acts()] == [("refused", True), ("waiting", False)]
        assert code(box) == ["data_locked", None]
    lift(world, lifting)
    assert box.send(app) == 2
    assert [(act.state, act.problem) for act in box.acts()] == [("stored", None)] * 2
    assert [one["severity"] for one in events_of(world, pid)] == ["severe"]


def test_of_many_acts_before_one_lock_one_is_tried(world: World, app: Registry, inside: Inside, box: Outbox) -> None:
    pid = world.enrolled()
    lifting = closed(world, pid)
    for _ in range(4):
        box.add("/v1/adverse-events", world.event(pid))
    box.send(app)
    inside.asked.clear()
    box.send(app)
    assert (inside.asked, code(box)) == (["/v1/adverse-events"], ["data_locked"] * 4)
    lift(world, lifting)
    assert box.send(app) == 4


def test_what_a_fast_clock_dated_ahead_is_stored_once_its_moment_has_come(
    world: World, app: Registry, box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = world.enrolled()
    box.add("/v1/adverse-events", world.event(pid, aware_at=(now() + timedelta(minutes=16)).isoformat()))
    assert box.send(app) == 0
    (act,) = box.acts("refused")
    assert (act.held, (act.problem or {})["errors"][0]["code"]) == (False, "date_in_future")
    monkeypatch.setattr("app.models.base.CLOCK_OFF", timedelta(minutes=17))
    assert box.send(app) == 1
    assert len(events_of(world, pid)) == 1


def test_what_nobody_may_do_yet_is_stored_once_the_grant_has_come(world: World, inside: Inside, box: Outbox) -> None:
    account = world.account((Role.site_staff, "A"))
    box.add("/v1/participants", world.enrolment("B"))
    with Registry("http://registry", Token(world.token(account)), transport=inside) as app:
        assert (box.send(app), code(box)) == (0, ["not_found"])
        with world.registry.database.write() as session:
            at = {"account_id": account.id, "study_id": world.study_id, "site_id": world.site_ids["B"]}
            session.add(RoleGrant(role=Role.site_staff, **at))
        assert box.send(app) == 1


def test_a_refused_act_whose_next_try_had_no_answer_is_not_given_up(
    world: World, app: Registry, inside: Inside, box: Outbox
) -> None:
    pid = world.enrolled()
    lifting = closed(world, pid)
    name = box.add("/v1/adverse-events", world.event(pid))
    box.send(app)
    lift(world, lifting)
    inside.deaf = True
    assert box.send(app) == 0
    assert [(act.state, (act.problem or {})["code"]) for act in box.acts()] == [("waiting", "data_locked")]
    with pytest.raises(KeyError):
        box.discard(name)
    inside.deaf = False
    assert box.send(app) == 1
    assert len(events_of(world, pid)) == 1


def test_a_refused_act_is_mended_while_nobody_answers(world: World, app: Registry, inside: Inside, box: Outbox) -> None:
    pid = world.enrolled()
    name = box.add("/v1/adverse-events", world.event(pid, severity="none"))
    box.send(app)
    with Registry("http://127.0.0.1:9", Token("x"), patience=0.0) as nobody:
        assert box.send(nobody) == 0
    box.mend(name, world.event(pid, severity="mild"))
    assert [(act.state, act.problem) for act in box.acts()] == [("waiting", None)]
    with pytest.raises(KeyError):
        box.mend(name, world.event(pid))
    assert box.send(app) == 1
    assert [one["severity"] for one in events_of(world, pid)] == ["mild"]


def test_what_can_never_be_right_stays_refused_and_may_be_left_out(
    world: World, app: Registry, inside: Inside, box: Outbox
) -> None:
    box.add("/v1/participants", world.enrolment(age_at_consent=-1))
    for _ in range(2):
        assert (box.send(app), code(box)) == (0, ["validation_failed"])
    inside.asked.clear()
    assert box.send(app, again=False) == 0
    assert inside.asked == []
