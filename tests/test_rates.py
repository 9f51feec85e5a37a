"""Limits of rate and time: an app that runs wild or hangs affects itself only, and is answered with when to retry."""

import asyncio
import json
from typing import Any

import pytest

import app.main  # noqa: F401 - loads every refusal
from app.errors import RateExceeded, every_refusal
from app.models.account import Role
from app.web.problems import problem
from app.web.rates import Rates
from tests.test_sync import act, sync
from tests.world import Caller, World


class Clock:
    """What `time.monotonic` tells the buckets."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(world: World, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Five requests a minute for each account, by a clock of ours."""
    clock = Clock()
    monkeypatch.setattr("app.web.rates.time", clock)
    monkeypatch.setitem(world.registry.app.state._state, "rates", Rates(5))
    return clock


def told(caller: Caller) -> tuple[int, str]:
    answer = caller.get("/v1/me")
    return answer.status_code, answer.headers["RateLimit"]


def test_answers_say_how_many_requests_an_account_has_left(world: World, clock: Clock) -> None:
    caller = world.caller((Role.site_staff, "A"))
    assert [told(caller) for _ in range(3)] == [
        (200, '"account";r=4;t=12'),
        (200, '"account";r=3;t=24'),
        (200, '"account";r=2;t=36'),
    ]
    clock.now += 24
    assert [told(caller)[0] for _ in range(5)] == [200] * 4 + [429]
    refused = caller.get("/v1/me")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_exceeded")
    assert refused.json()["violated-policies"] == ["account"]
    assert (refused.headers["Retry-After"], refused.headers["RateLimit"]) == ("12", '"account";r=0;t=12')
    assert refused.headers["RateLimit-Policy"] == '"account";q=5;w=60'
    assert told(world.staff_b)[0] == 200, "each account has its own"
    clock.now += 12
    assert [told(caller)[0], told(caller)[0]] == [200, 429]


def test_a_refusal_counts_and_a_request_without_a_good_token_is_nobodys(world: World, clock: Clock) -> None:
    assert "RateLimit" not in Caller(world.registry.client, "not a token").get("/v1/me").headers
    refused = world.analyst.get("/v1/participants")
    assert (refused.status_code, refused.headers["RateLimit"]) == (403, '"account";r=4;t=12')


def test_a_call_of_sync_is_one_request_whatever_it_brings(world: World, clock: Clock) -> None:
    person = act("/v1/participants", world.enrolment())
    acts = [person, *(act("/v1/adverse-events", world.event(f"@{person['id']}")) for _ in range(9))]
    assert {one["result"] for one in sync(world.staff_a, *acts).values()} == {"created"}
    assert told(world.staff_a) == (200, '"account";r=3;t=24')


def test_zero_counts_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(world.registry.app.state._state, "rates", Rates(0))
    assert "RateLimit" not in world.staff_a.get("/v1/me").headers


def test_a_refusal_that_may_be_retried_says_when() -> None:
    later = [refusal for refusal in every_refusal() if refusal.status in {429, 503}]
    assert RateExceeded in later
    assert len(later) > 5
    assert all(int(problem(refusal(), "/").headers["Retry-After"]) >= 1 for refusal in later)


def slow(world: World, path: str, media_type: str, *parts: bytes) -> tuple[int, dict[str, Any]]:
    """What a client is told that sends these parts of a body, and then no more of it."""
    fields = {"authorization": f"Bearer {world.staff_a.token}", "content-type": media_type, "idempotency-key": "a"}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }
    waiting, sent = list(parts), []

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": waiting.pop(0), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(world.registry.app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.fixture
def hurried(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A registry that waits for a body for a twentieth of a second."""
    state = world.registry.app.state._state
    monkeypatch.setitem(state, "settings", state["settings"].model_copy(update={"body_seconds": 0.05}))
    return world


def test_a_body_that_never_ends_is_given_up(hurried: World) -> None:
    status, told = slow(hurried, "/v1/visits", "application/json", b'{"participant": ')
    assert (status, told["code"]) == (408, "body_too_slow")


def test_an_upload_that_stops_is_given_up_and_what_came_before_is_there(hurried: World) -> None:
    pid = hurried.enrolled()
    lines = b"".join(
        json.dumps({"key": f"{pid}-{number}", "record": hurried.event(pid)}).encode() + b"\n" for number in range(51)
    )
    status, told = slow(hurried, "/v1/adverse-events/bulk", "application/x-ndjson", lines, b'{"key": ')
    assert (status, told["code"]) == (408, "body_too_slow")
    there = hurried.staff_a.get("/v1/adverse-events", participant=pid, limit=100).json()["items"]
    assert len(there) == 51
    again = [{"key": f"{pid}-{number}", "record": hurried.event(pid)} for number in range(51)]
    answer = hurried.staff_a.raw("POST", "/v1/adverse-events/bulk", json.dumps(again).encode())
    assert [json.loads(line)["result"] for line in answer.text.splitlines()] == ["replayed"] * 51
