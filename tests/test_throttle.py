"""Guessing passwords and client secrets costs waiting time, by account and by address, on every worker."""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app.main import create_app
from app.models import base
from app.models.account import Account
from app.models.audit import REGISTRY_CHAIN, AuditEntry
from app.models.base import table_of
from app.models.sign_in import Throttle as Counted
from app.security.passwords import Passwords
from app.services.identity import throttle
from app.services.identity.throttle import FORGOTTEN_AFTER, LONGEST_WAIT, remaining, waiting_time
from tests.route_cases import totp_code
from tests.test_sign_in import PASSWORD, app, person, sign_in
from tests.world import Caller, Registry, World


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.at = base.now()

    def __call__(self) -> datetime:
        return self.at

    def wait(self, **time: float) -> None:
        self.at += timedelta(**time)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throttle, "now", clock)
    return clock


@pytest.fixture
def elsewhere(registry: Registry) -> Iterator[TestClient]:
    """A second worker on the same database, called from other addresses and strict about them."""
    with another_worker(registry, address_failures=3) as client:
        yield client


def another_worker(registry: Registry, address_failures: int) -> TestClient:
    """On the same database, called from an address that nobody else has."""
    settings = registry.app.state.settings.model_copy(update={"throttle_address_failures": address_failures})
    address = f"2001:db8:{uuid4().hex[:4]}:{uuid4().hex[:4]}::1"
    return TestClient(create_app(settings), client=(address, 50000))


def fail(world: World, username: str, times: int) -> list[int]:
    return [sign_in(world, username, "not the password").status_code for _ in range(times)]


def told(answer: Response) -> tuple[int, str, int]:
    return answer.status_code, answer.json()["code"], int(answer.headers.get("Retry-After", 0))


def entries(world: World, subject: str) -> list[str]:
    wanted = select(AuditEntry.action).where(  # type: ignore[call-overload]
        AuditEntry.site_id == REGISTRY_CHAIN, AuditEntry.subject_id == subject
    )
    with world.registry.database.read() as session:
        return list(session.execute(wanted.order_by(AuditEntry.seq)).scalars())


def account_id(world: World, username: str) -> str:
    with world.registry.database.read() as session:
        return str(session.execute(select(Account.id).where(Account.login == username)).scalar_one())  # type: ignore


def test_after_five_failures_even_the_right_password_waits_a_minute(world: World, clock: Clock) -> None:
    username = person(world)
    assert fail(world, username, 6) == [401] * 5 + [429]
    assert told(sign_in(world, username)) == (429, "too_many_attempts", 60)
    clock.wait(seconds=59.5)
    assert told(sign_in(world, username)) == (429, "too_many_attempts", 1)
    clock.wait(seconds=0.5)
    assert sign_in(world, username).status_code == 201


def test_the_wait_doubles_up_to_a_quarter_of_an_hour(world: World, clock: Clock) -> None:
    username = person(world)
    fail(world, username, 5)
    waits = []
    for _ in range(7):
        waits.append(told(sign_in(world, username))[2])
        clock.wait(seconds=waits[-1])
        assert fail(world, username, 1) == [401]
    assert waits == [60, 120, 240, 480, 900, 900, 900]


def test_a_clock_that_was_ahead_and_is_put_right_makes_nobody_wait_for_it(world: World, clock: Clock) -> None:
    username, other = person(world), person(world)
    clock.wait(days=1)
    fail(world, username, 5)
    fail(world, other, 5)
    clock.wait(days=-1)
    assert sign_in(world, username).status_code == 201
    assert fail(world, other, 2) == [401, 429], "the failures count on"
    assert told(sign_in(world, other)) == (429, "too_many_attempts", 120)


def test_success_and_a_day_without_failures_start_the_count_anew(world: World, clock: Clock) -> None:
    username = person(world)
    fail(world, username, 4)
    assert sign_in(world, username).status_code == 201
    assert fail(world, username, 5) == [401] * 5
    clock.wait(seconds=FORGOTTEN_AFTER.total_seconds() + 1)
    assert fail(world, username, 5) == [401] * 5


def test_a_name_that_nobody_has_is_answered_as_a_known_one(world: World, clock: Clock) -> None:
    known, unknown = person(world), f"u{uuid4().hex}"
    for _ in range(7):
        one, other = (sign_in(world, name, "not the password") for name in (known, unknown))
        assert {**one.json(), "request_id": ""} == {**other.json(), "request_id": ""}
        assert one.headers.keys() == other.headers.keys()


def test_no_password_is_hashed_while_its_account_has_to_wait(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    username = person(world)
    fail(world, username, 5)
    monkeypatch.setattr(Passwords, "check", lambda *_: pytest.fail("hashed"))
    assert sign_in(world, username).status_code == 429


def test_an_address_waits_whatever_names_it_tries_and_others_do_not(
    world: World, elsewhere: TestClient, clock: Clock
) -> None:
    username = person(world)
    for _ in range(3):
        body = {"username": f"u{uuid4().hex}", "password": "not the password"}
        assert elsewhere.post("/v1/auth/sessions", json=body).status_code == 401
    own = {"username": username, "password": PASSWORD}
    assert told(elsewhere.post("/v1/auth/sessions", json=own)) == (429, "too_many_attempts", 60)
    form = {"grant_type": "client_credentials", **app(world)}
    refused = elsewhere.post("/v1/auth/token", data=form)
    assert (refused.status_code, refused.json()) == (429, {"error": "temporarily_unavailable"})
    assert refused.headers["Retry-After"] == "60"
    assert sign_in(world, username).status_code == 201
    clock.wait(seconds=60)
    assert elsewhere.post("/v1/auth/sessions", json=own).status_code == 201


@pytest.fixture
def hospital(registry: Registry) -> Iterator[TestClient]:
    """Everybody at one site: they share an address, under the limits that a deployment has by itself."""
    with another_worker(registry, address_failures=20) as client:
        yield client


def mistyped(hospital: TestClient) -> int:
    body = {"username": f"u{uuid4().hex}", "password": "not the password"}
    return hospital.post("/v1/auth/sessions", json=body).status_code


def test_a_few_mistypings_a_day_never_make_a_whole_hospital_wait(
    world: World, hospital: TestClient, clock: Clock
) -> None:
    colleague = {"username": person(world), "password": PASSWORD}
    for _ in range(30):
        clock.wait(hours=12)
        assert mistyped(hospital) == 401
        clock.wait(hours=12)
        assert mistyped(hospital) == 401
    assert hospital.post("/v1/auth/sessions", json=colleague).status_code == 201


def test_twenty_guesses_in_an_hour_make_their_address_wait(world: World, hospital: TestClient, clock: Clock) -> None:
    for _ in range(20):
        assert mistyped(hospital) == 401
        clock.wait(minutes=3)
    assert mistyped(hospital) == 401, "the first wait, of a minute, is over"
    assert mistyped(hospital) == 429


def test_an_ipv6_client_cannot_change_its_address_within_its_network(world: World) -> None:
    one, same, other = (
        world.registry.app.state.throttle.attempt("x", f"2001:db8:1:{end}").address.key
        for end in ("1::1", "1::2", "2::1")
    )
    assert one == same != other


def test_an_ipv4_client_is_itself_however_a_socket_for_both_kinds_of_address_writes_it(world: World) -> None:
    one, same, other = (
        world.registry.app.state.throttle.attempt("x", address).address.key
        for address in ("192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2")
    )
    assert one == same != other


def test_wrong_client_secrets_wait_too_and_are_answered_in_oauths_form(world: World, clock: Clock) -> None:
    credentials = app(world)
    ask = world.registry.client.post
    wrong = {"grant_type": "client_credentials", **credentials, "client_secret": "wrong"}
    assert [ask("/v1/auth/token", data=wrong).status_code for _ in range(5)] == [401] * 5
    right = {**wrong, **credentials}
    refused = ask("/v1/auth/token", data=right)
    assert (refused.status_code, refused.json()) == (429, {"error": "temporarily_unavailable"})
    assert refused.headers["Retry-After"] == "60"
    clock.wait(seconds=60)
    assert ask("/v1/auth/token", data=right).status_code == 200


def test_workers_share_the_count(world: World, elsewhere: TestClient, clock: Clock) -> None:
    username = person(world)
    fail(world, username, 5)
    body = {"username": username, "password": PASSWORD}
    assert elsewhere.post("/v1/auth/sessions", json=body).status_code == 429


def test_a_volley_of_guesses_gets_no_more_answers_than_a_row(world: World) -> None:
    username, start = person(world), threading.Barrier(12)

    def guess(_: int) -> int:
        start.wait()
        return sign_in(world, username, "not the password").status_code

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(guess, range(12)))
    assert 0 < answers.count(401) <= 5
    assert set(answers) <= {401, 429, 503}


def test_failures_are_remembered_and_a_flood_does_not_fill_the_trail(world: World, clock: Clock) -> None:
    username = person(world)
    subject = account_id(world, username)
    fail(world, username, 40)
    refused = ["session:refused"] * 5
    assert entries(world, subject)[-6:] == [*refused, "session:throttled"]
    clock.wait(seconds=60)
    sign_in(world, username)
    assert entries(world, subject)[-1] == "session:opened"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("::ffff:203.0.113.78", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("what somebody sent", None),
    ],
)
def test_the_trail_has_the_network_of_a_failure_and_who_has_to_wait(
    world: World, address: str, network: str | None
) -> None:
    subject = account_id(world, username := person(world))
    settings = world.registry.app.state.settings.model_copy(update={"throttle_address_failures": 5})
    with TestClient(create_app(settings), client=(address, 50000)) as client:
        for _ in range(5):
            client.post("/v1/auth/sessions", json={"username": username, "password": "not the password"})
    trail = world.admin.get("/v1/audit-entries", subject_id=subject, limit="500").json()["items"]
    told = [(row["action"], row["field"], row["new"]) for row in trail if row["actor"] == "system"]
    from_there = [("network", network)] if network else []
    throttled = [*from_there, ("waits", "account"), *from_there, ("waits", "address")]
    refused = from_there * 5 if network else [(None, None)] * 5
    assert Counter(told) == Counter(
        [("session:refused", *row) for row in refused] + [("session:throttled", *row) for row in throttled]
    )
    assert network is not None or address not in str(trail)


def test_failures_under_names_that_nobody_has_are_remembered_once_a_minute(world: World, clock: Clock) -> None:
    clock.wait(days=2)
    before = len(entries(world, "unknown"))
    for _ in range(30):
        fail(world, f"u{uuid4().hex}", 1)
    assert len(entries(world, "unknown")) == before + 1
    clock.wait(seconds=61)
    fail(world, f"u{uuid4().hex}", 1)
    assert len(entries(world, "unknown")) == before + 2


def test_a_steady_trickle_of_such_names_is_remembered_once_a_minute_too(world: World, clock: Clock) -> None:
    clock.wait(days=3)  # no other test's minute
    before = len(entries(world, "unknown"))
    for _ in range(10):
        fail(world, f"u{uuid4().hex}", 1)
        clock.wait(seconds=30)
    assert len(entries(world, "unknown")) == before + 5


def test_nobody_can_be_read_from_the_table(world: World) -> None:
    username = person(world)
    fail(world, username, 1)
    with world.registry.database.read() as session:
        keys: list[Any] = list(session.execute(select(table_of(Counted).c.key)).scalars())
    assert keys
    assert all(len(key) == 64 and int(key, 16) >= 0 for key in keys)


@given(st.integers(0, 10**6), st.integers(1, 100))
def test_the_wait_never_shrinks_and_never_exceeds_its_cap(failures: int, allowed: int) -> None:
    wait = waiting_time(failures, allowed)
    assert wait <= waiting_time(failures + 1, allowed) <= LONGEST_WAIT
    assert (wait > timedelta(0)) == (failures >= allowed)
    assert waiting_time(failures, math.inf) == timedelta(0)


@given(st.lists(st.integers(0, 100)), st.integers(1, 100))
def test_no_choice_of_pauses_gives_more_guesses_than_a_quarter_of_an_hour_for_each(
    pauses: list[int], allowed: int
) -> None:
    """Beyond those that are free and those of the waits that still grow."""
    failures, passed = 0, timedelta(0)
    for extra in pauses:
        pause = waiting_time(failures, allowed) + timedelta(minutes=extra)
        passed += pause
        failures = remaining(failures, pause) + 1
    growing = math.ceil(math.log2(LONGEST_WAIT / throttle.FIRST_WAIT))
    assert len(pauses) <= allowed + growing + passed / LONGEST_WAIT


def test_a_hash_of_other_parameters_is_renewed_when_its_owner_signs_in(world: World) -> None:
    username = person(world)
    weaker = Passwords(world.registry.app.state.settings.model_copy(update={"argon2_memory_kib": 32}))
    with world.registry.database.write() as session:
        account = session.get_one(Account, UUID(account_id(world, username)))
        account.password_hash = weaker.hash(PASSWORD)
    assert sign_in(world, username).status_code == 201
    with world.registry.database.read() as session:
        stored = session.get_one(Account, UUID(account_id(world, username))).password_hash
    assert "m=64," in str(stored)
    assert sign_in(world, username).status_code == 201


def test_signing_in_holds_one_connection_at_a_time(world: World) -> None:
    """With more, threads could each hold one and wait for another."""
    update = {"pool_size": 1, "pool_timeout_seconds": 1.0}
    settings = world.registry.app.state.settings.model_copy(update=update)
    username, credentials = person(world), app(world)
    with TestClient(create_app(settings)) as client:

        def opened(password: str) -> Response:
            return client.post("/v1/auth/sessions", json={"username": username, "password": password})

        def token(secret: str) -> Response:
            form = {"grant_type": "client_credentials", **credentials, "client_secret": secret}
            return client.post("/v1/auth/token", data=form)

        assert [opened(password).status_code for password in ("not the password", PASSWORD)] == [401, 201]
        assert [token(secret).status_code for secret in ("wrong", credentials["client_secret"])] == [401, 200]
        caller = Caller(client, opened(PASSWORD).json()["access_token"])
        for current, status in (("not the password", 401), (PASSWORD, 204)):
            body = {"current": current, "new": "another pass phrase"}
            assert caller.post("/v1/me/password", body).status_code == status
        secret = caller.post("/v1/me/totp", {"password": "another pass phrase"}).json()["secret"]
        for code, status in (("000000", 401), (totp_code(secret), 204)):
            assert caller.post("/v1/me/totp/confirmation", {"code": code}).status_code == status
        assert client.post("/v1/auth/revoke", data={"token": caller.token}).status_code == 200


def test_the_right_password_that_was_checked_while_others_failed_waits_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    username, check = person(world), Passwords.check

    def overtaken(self: Passwords, stored: str | None, password: str, login: str) -> bool:
        for _ in range(5):
            world.registry.app.state.throttle.attempt(username, "192.0.2.1").failed("session", None)
        return check(self, stored, password, login)

    monkeypatch.setattr(Passwords, "check", overtaken)
    assert told(sign_in(world, username))[:2] == (429, "too_many_attempts")
