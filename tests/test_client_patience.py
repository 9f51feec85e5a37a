"""What the client does about answers that say nothing of the act itself: it asks again, under the same key."""

import asyncio
import json
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.models.base import now
from registry_client import (
    AsyncRegistry,
    ClientCredentials,
    NotSignedIn,
    Outbox,
    Password,
    Registry,
    Token,
    Unreachable,
    calls,
    new_key,
)


def problem(status: int, code: str, headers: Any = None, **facts: Any) -> httpx.Response:
    text = json.dumps({"status": status, "code": code, **facts})
    return httpx.Response(status, text=text, headers={"Content-Type": "application/problem+json", **(headers or {})})


IN_FLIGHT = problem(409, "idempotency_key_in_flight", {"Retry-After": "1"})
STORED = httpx.Response(201, json={"id": "1"}, headers={"Location": "/v1/visits/1", "ETag": '"1"'})
TOKEN = httpx.Response(200, json={"access_token": "made-up", "expires_in": 600})


class Server:
    """Answers in this order, and keeps what it was asked."""

    def __init__(self, *answers: httpx.Response) -> None:
        self._answers, self.asked = iter(answers), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = next(self._answers)
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    def registry(self, credentials: Any = None, **options: Any) -> Registry:
        who = credentials or Token("made-up")
        return Registry("http://registry", who, transport=httpx.MockTransport(self), **options)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr("registry_client.registry.time.sleep", made.append)
    return made


def test_a_key_in_flight_is_retried_after_the_time_given(pauses: list[float]) -> None:
    server = Server(IN_FLIGHT, IN_FLIGHT, STORED)
    assert server.registry().post("/v1/visits", {}).location == "/v1/visits/1"
    assert len({request.headers["Idempotency-Key"] for request in server.asked}) == 1
    assert [pause >= 1 for pause in pauses] == [True, True]


def test_a_server_that_fails_is_asked_again_and_not_taken_for_a_refusal() -> None:
    server = Server(*(httpx.Response(status) for status in (500, 502, 503, 504, 429)), STORED)
    assert server.registry().post("/v1/visits", {}).body == {"id": "1"}
    assert len({request.headers["Idempotency-Key"] for request in server.asked}) == 1


@pytest.mark.parametrize("credentials", [ClientCredentials("app", "secret"), Password("person", "long enough 12")])
def test_a_token_address_that_fails_is_asked_again(credentials: Any) -> None:
    server = Server(httpx.Response(502, text="<html>"), TOKEN, STORED, httpx.Response(503), TOKEN, STORED)
    registry = server.registry(credentials)
    assert registry.post("/v1/visits", {}).body == {"id": "1"}
    credentials._kept.until = 0.0
    assert registry.token() == "made-up"


def test_a_pause_may_be_given_as_a_date_and_ends_patience_when_it_is_too_long(pauses: list[float]) -> None:
    date = format_datetime(now().replace(microsecond=0), usegmt=True)
    assert Server(httpx.Response(503, headers={"Retry-After": date}), STORED).registry().post("/v1/visits", {}).body
    assert all(pause < 1 for pause in pauses)
    later = httpx.Response(429, headers={"Retry-After": "3600"})
    with pytest.raises(Unreachable, match="no answer after 1 tries"):
        Server(later).registry().get("/v1/visits")


FOREIGN = {
    "nothing": httpx.Response(200),
    "no content": httpx.Response(204),
    "the page of a guest network": httpx.Response(200, html="<html>Please accept our terms</html>"),
    "a page that is called JSON": httpx.Response(200, text="<html>", headers={"Content-Type": "application/json"}),
    "an answer of another service": httpx.Response(200, json={"status": "ok"}),
    "a way to another page": httpx.Response(302, headers={"Location": "http://guests.example/login"}),
    "the page of a proxy": httpx.Response(404, html="<h1>404 Not Found</h1>"),
    "a wall": httpx.Response(403, html="blocked"),
    "a refusal of another service": httpx.Response(404, json={"code": 5, "error": "not_found", "message": "no route"}),
}


@pytest.mark.parametrize("answer", FOREIGN.values(), ids=FOREIGN.keys())
def test_only_the_registry_says_what_became_of_an_act(tmp_path: Path, answer: httpx.Response) -> None:
    amended = httpx.Response(200, json={}, headers={"ETag": '"2"'})
    with Outbox(tmp_path / "outbox.db") as box:
        visit = box.add("/v1/visits", {"visit_code": "BL"})
        box.amend(f"/v1/visits/{visit}", visit, "misread", occurred_on="2025-01-26")
        assert box.send(Server(answer, answer).registry(patience=0.0)) == 0
        assert box.send(Server(STORED, answer).registry(patience=0.0)) == 1
        assert [act.state for act in box.acts()] == ["stored", "waiting"]
        server = Server(answer, amended)
        assert box.send(server.registry()) == 1
        assert len({request.headers["Idempotency-Key"] for request in server.asked}) == 1
        assert [act.state for act in box.acts()] == ["stored", "stored"]


@pytest.mark.parametrize("answer", FOREIGN.values(), ids=FOREIGN.keys())
def test_only_the_registry_gives_a_token_and_takes_an_upload(answer: httpx.Response) -> None:
    server = Server(answer, TOKEN, answer, bulk_answer(CREATED))
    (line,) = server.registry(ClientCredentials("app", "secret")).bulk("visits", [(new_key(), {})])
    assert line.result == "created"
    with pytest.raises(Unreachable, match=f"{answer.status_code}, not an answer of the registry|sign-in"):
        Server(answer).registry(ClientCredentials("app", "secret"), patience=0.0).token()


def test_what_is_asked_by_a_post_or_tried_only_has_no_address() -> None:
    named = {"X-Request-Id": "00000000-0000-4000-8000-000000000000"}
    looked_up, changed = httpx.Response(200, json={"pid": "1"}, headers=named), httpx.Response(204, headers=named)
    registry = Server(looked_up, changed).registry()
    assert registry.post("/v1/participants/lookup", {}).body == {"pid": "1"}
    assert registry.post("/v1/me/password", {}).body is None


def bulk_answer(*results: dict[str, Any]) -> httpx.Response:
    lines = "".join(json.dumps({"line": number, **one}) + "\n" for number, one in enumerate(results, 1))
    return httpx.Response(207, text=lines, headers={"Content-Type": "application/x-ndjson"})


CREATED = {"result": "created", "status": 201, "location": "/v1/visits/1"}
LATER = {"result": "conflict", "status": 409, "problem": {"code": "idempotency_key_in_flight"}}
DOWN = {"result": "blocked", "status": 503, "problem": {"code": "database_unavailable"}}


def keys_in(request: httpx.Request) -> list[str]:
    return [json.loads(line)["key"] for line in request.content.splitlines()]


def test_only_the_lines_of_an_upload_that_were_not_tried_are_sent_again() -> None:
    server = Server(bulk_answer(CREATED, LATER, CREATED, DOWN), bulk_answer(DOWN), bulk_answer(CREATED, CREATED))
    records = [(new_key(), {"number": number}) for number in range(4)]
    told = list(server.registry().bulk("visits", records))
    assert {line.key for line in told} == {key for key, _ in records}
    assert {line.result for line in told} == {"created"}
    assert [keys_in(request) == [records[1][0], records[3][0]] for request in server.asked] == [False, True, True]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507])
def test_a_line_is_sent_again_whenever_a_single_record_would_be(pauses: list[float], status: int) -> None:
    """A disk that is full for some seconds uses up no lines."""
    later = {"result": "blocked", "status": status, "problem": {"code": "storage_full"}}
    server = Server(bulk_answer(CREATED, later), bulk_answer(later), bulk_answer(CREATED))
    told = list(server.registry().bulk("visits", [(new_key(), {}), (new_key(), {})]))
    assert [line.result for line in told] == ["created", "created"]
    single = Server(problem(status, "storage_full"), STORED)
    assert single.registry().post("/v1/visits", {}).location == "/v1/visits/1"
    assert len(pauses) == 2


def test_an_upload_of_which_nothing_is_taken_ends_with_a_word() -> None:
    server = Server(bulk_answer(DOWN), bulk_answer(DOWN))
    with pytest.raises(Unreachable, match="no line was taken"):
        list(server.registry(patience=0.0).bulk("visits", [(new_key(), {})]))


@pytest.mark.parametrize("code", [400, 401, 403, 422])
def test_an_app_that_may_not_sign_in_is_no_reason_to_refuse_what_people_did(tmp_path: Path, code: int) -> None:
    person = Password("person", "long enough 12")
    with Outbox(tmp_path / "outbox.db") as box:
        box.add("/v1/visits", {"visit_code": "BL"})
        with pytest.raises(NotSignedIn):
            box.send(Server(problem(code, "x")).registry(person))
        with pytest.raises(NotSignedIn):
            box.send(Server(*[problem(401, "x")] * 2).registry())
        assert [act.state for act in box.acts()] == ["waiting"]


@pytest.mark.parametrize("code", ["credentials_wrong", "totp_needed", "totp_wrong"])
def test_a_password_that_signs_is_sent_once(code: str) -> None:
    """Each time is a failure that the registry counts, and the token is not what is wrong."""
    server = Server(TOKEN, problem(401, code))
    with pytest.raises(NotSignedIn):
        server.registry(Password("person", "long enough 12")).post("/v1/signatures", {"password": "mistyped"})
    assert [request.url.path for request in server.asked] == ["/v1/auth/sessions", "/v1/signatures"]


def test_an_act_that_the_role_does_not_include_holds_up_no_other(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as box:
        lock = box.add("/v1/locks", {})
        box.add("/v1/visits", {"visit_code": "BL"})
        assert box.send(Server(problem(403, "permission_missing"), STORED).registry()) == 1
        assert [(act.state, (act.problem or {}).get("code")) for act in box.acts()] == [
            ("refused", "permission_missing"),
            ("stored", None),
        ]
        box.discard(lock)


def test_a_correction_waits_in_the_outbox_for_what_it_corrects(tmp_path: Path) -> None:
    stale = problem(412, "version_stale", {"ETag": '"3"'}, differing_fields=["x"])
    same = problem(412, "version_stale", {"ETag": '"4"'}, differing_fields=[])
    amended = httpx.Response(200, json={}, headers={"ETag": '"2"'})
    server = Server(STORED, amended, stale, same)
    with Outbox(tmp_path / "outbox.db") as box:
        visit = box.add("/v1/visits", {"visit_code": "BL"})
        first = box.amend(f"/v1/visits/{visit}", visit, "misread", occurred_on="2025-01-26")
        second = box.amend(f"/v1/visits/{visit}", first, "misread again", occurred_on="2025-01-27")
        assert box.send(server.registry()) == 2
        assert [request.headers.get("If-Match") for request in server.asked] == [None, '"1"', '"2"']
        assert [request.url.path for request in server.asked[1:]] == ["/v1/visits/1"] * 2
        (refused,) = box.acts("refused")
        assert (f"@{refused.key}", refused.body["occurred_on"]) == (second, "2025-01-27")
        box.mend(second, refused.body, seen='"3"')
        assert box.send(server.registry()) == 1  # it had been stored, and its answer lost
        assert server.asked[-1].headers["If-Match"] == '"3"'


def test_uploads_and_the_outbox_work_with_asyncio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_WAIT", 0.0)
    server = Server(bulk_answer(LATER, CREATED), bulk_answer(CREATED), STORED)

    async def work() -> None:
        async with AsyncRegistry("http://registry", Token("x"), transport=httpx.MockTransport(server)) as registry:
            told = [line async for line in registry.bulk("visits", [(new_key(), {}), (new_key(), {})])]
            assert [line.result for line in told] == ["created", "created"]
            with Outbox(tmp_path / "outbox.db") as box:
                box.add("/v1/visits", {})
                assert await box.send_async(registry) == 1
            assert await registry.token() == "x"

    asyncio.run(work())
