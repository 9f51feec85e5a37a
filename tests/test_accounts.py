"""Administration: accounts, grants, sessions and secrets, and that somebody can always administer."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx2 import Response
from sqlmodel import col, select

from app import audit
from app.models.account import Account, AccountKind, ClientSecret, Role, RoleGrant
from app.models.audit import AuditEntry
from app.models.base import now
from tests.account_cases import PASSWORD, WHY, a_person, a_site_app, new_user, tag
from tests.test_access import pages
from tests.test_bulk_races import until_somebody_waits
from tests.world import Caller, World


def told(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def token_of(world: World, app: dict[str, Any], secret: str | None = None) -> Response:
    pair = (app["login"], secret or app["client_secret"])
    return world.registry.client.post("/v1/auth/token", data={"grant_type": "client_credentials"}, auth=pair)


def signed_in(world: World, person: dict[str, Any], password: str = PASSWORD) -> Response:
    return world.registry.client.post("/v1/auth/sessions", json={"username": person["login"], "password": password})


def refreshed(world: World, session: Response) -> int:
    form = {"grant_type": "refresh_token", "refresh_token": session.json()["refresh_token"]}
    return world.registry.client.post("/v1/auth/token", data=form).status_code


def speaks(world: World, session: Response) -> bool:
    return Caller(world.registry.client, session.json()["access_token"]).get("/v1/me").status_code == 200


def last_entry(world: World, action: str) -> AuditEntry:
    with world.registry.database.read() as session:
        statement = select(AuditEntry).where(AuditEntry.action == action).order_by(col(AuditEntry.seq).desc())
        entry = session.exec(statement).first()
    assert entry is not None
    return entry


def test_lists_are_paged_and_filtered(world: World) -> None:
    one, other = a_person(world), a_person(world)
    world.admin.patch(other["path"], {"disabled": True, **WHY}, tag(world, other))
    everybody = pages(world.admin, "/v1/users", role="monitor")
    assert everybody.index(other["id"]) < everybody.index(one["id"])
    assert one["id"] in pages(world.admin, "/v1/users", disabled="false")
    assert other["id"] not in pages(world.admin, "/v1/users", disabled="false")
    assert other["id"] in pages(world.admin, "/v1/users", disabled="true")
    assert one["id"] not in pages(world.admin, "/v1/users", role="analyst")
    assert a_site_app(world)["id"] in pages(world.admin, "/v1/clients", role="site_staff")
    assert world.admin.get("/v1/users", disabled="maybe").status_code == 422


def test_a_person_is_not_found_among_the_site_apps(world: World) -> None:
    assert world.admin.get(f"/v1/clients/{a_person(world)['login']}").status_code == 404
    assert world.admin.get(f"/v1/users/{a_site_app(world)['id']}").status_code == 404


def test_an_account_is_renamed_with_a_reason_and_the_version_seen(world: World) -> None:
    person = a_person(world)
    seen, body = tag(world, person), {"display_name": "Dr P", **WHY}
    assert told(world.admin.patch(person["path"], body)) == (428, "if_match_missing")
    assert world.admin.patch(person["path"], {"display_name": "Dr P"}, seen).status_code == 422
    done = world.admin.patch(person["path"], body, seen)
    assert (done.status_code, done.json()["display_name"]) == (200, "Dr P")
    stale = world.admin.patch(person["path"], {"display_name": "P", **WHY}, seen)
    assert (told(stale), stale.json()["differing_fields"]) == ((412, "version_stale"), ["display_name"])
    entry = last_entry(world, "account:amended")
    assert (entry.subject_id, entry.reason) == (person["id"], WHY["reason"])
    assert json.loads(entry.changes) == [{"field": "display_name", "old": "P", "new": "Dr P"}]
    assert world.admin.patch(person["path"], body, done.headers["ETag"]).headers["ETag"] == done.headers["ETag"]


def test_an_organisation_is_stored_as_its_name_is_read(world: World) -> None:
    person = a_person(world)
    spelled = {"organisation": " Uni\u00a0 Basel\n", **WHY}
    named = world.admin.patch(person["path"], spelled, tag(world, person))
    assert (named.status_code, named.json()["organisation"]) == (200, "Uni Basel")
    for unseen in ("Uni Base\u200bl", "\u00a0"):
        refused = world.admin.patch(person["path"], {"organisation": unseen, **WHY}, named.headers["ETag"])
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/organisation")


def test_a_disabled_person_is_out_and_enabling_revives_no_token(world: World) -> None:
    person = a_person(world)
    session = signed_in(world, person)
    assert speaks(world, session)
    off = world.admin.patch(person["path"], {"disabled": True, **WHY}, tag(world, person))
    assert off.json()["disabled"] is True
    assert not speaks(world, session)
    assert signed_in(world, person).status_code == 401
    on = world.admin.patch(person["path"], {"disabled": False, **WHY}, off.headers["ETag"])
    assert on.json()["disabled"] is False
    assert not speaks(world, session)
    assert refreshed(world, session) == 400
    assert speaks(world, signed_in(world, person))
    assert last_entry(world, "account:enabled").subject_id == person["id"]


def test_a_new_password_ends_the_sessions_of_the_old(world: World) -> None:
    person = a_person(world)
    session = signed_in(world, person)
    answer = world.admin.post(f"{person['path']}/password", {"password": "another long one", **WHY})
    assert answer.status_code == 201
    assert "another" not in answer.text
    assert not speaks(world, session)
    assert refreshed(world, session) == 400
    assert signed_in(world, person).status_code == 401
    assert speaks(world, signed_in(world, person, "another long one"))
    assert "another" not in last_entry(world, "account:password-set").changes


def test_a_site_records_while_a_password_is_hashed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite there is one writer."""
    passwords, person, recorded = world.registry.app.state.passwords, a_person(world), []
    visits = iter([world.visit(world.enrolled()) for _ in range(2)])
    real = passwords.hash

    def slow(password: str) -> str:
        recorded.append(world.staff_a.post("/v1/visits", next(visits)).status_code)
        return str(real(password))

    monkeypatch.setattr(passwords, "hash", slow)
    new = new_user()
    made = world.admin.post("/v1/users", new)
    answer = world.admin.post(f"{person['path']}/password", {"password": "another long one", **WHY})
    assert (made.status_code, answer.status_code, recorded) == (201, 201, [201, 201])


def test_somebody_is_signed_out_everywhere(world: World) -> None:
    person = a_person(world)
    sessions = [signed_in(world, person) for _ in range(2)]
    assert world.admin.post(f"{person['path']}/sessions/revocation", WHY).status_code == 201
    assert [speaks(world, one) or refreshed(world, one) != 400 for one in sessions] == [False, False]
    assert speaks(world, signed_in(world, person))


def test_a_revoked_grant_is_gone_and_cannot_be_revoked_again(world: World) -> None:
    person = a_person(world)
    session = signed_in(world, person)
    path = f"{person['path']}/grants/{person['grants'][0]['id']}/revocation"
    assert told(world.admin.post(f"{a_person(world)['path']}/grants/{path.split('/')[5]}/revocation", WHY))[0] == 404
    answer = world.admin.post(path, WHY)
    assert (answer.status_code, answer.json()["grants"]) == (201, [])
    assert not speaks(world, session)
    assert told(world.admin.post(path, WHY)) == (404, "not_found")
    entry = last_entry(world, "grant:revoked")
    assert (entry.subject_id, entry.reason) == (person["grants"][0]["id"], WHY["reason"])


def test_a_role_given_again_changes_nothing(world: World) -> None:
    person = a_person(world)
    session = signed_in(world, person)
    given = last_entry(world, "grant:given").seq
    body = {"role": "monitor", "study": world.study, "sites": ["A"]}
    again = world.admin.post(f"{person['path']}/grants", body)
    assert (again.status_code, again.json()["grants"]) == (201, person["grants"])
    assert last_entry(world, "grant:given").seq == given
    assert speaks(world, session)
    more = world.admin.post(f"{person['path']}/grants", {**body, "sites": ["A", "B"]})
    assert [one["site"] for one in more.json()["grants"]] == ["A", "B"]
    assert not speaks(world, session)


def test_no_right_waits_in_a_disabled_account(world: World) -> None:
    person, app = a_person(world), a_site_app(world)
    for one in (person, app):
        world.admin.patch(one["path"], {"disabled": True, **WHY}, tag(world, one))
        body = {"role": "monitor", "study": world.study}
        assert told(world.admin.post(f"{one['path']}/grants", body)) == (409, "account_disabled")
    assert told(world.admin.post(f"{app['path']}/secrets", WHY)) == (409, "account_disabled")


@pytest.mark.parametrize("role", ["admin", "analyst", "custodian"])
def test_a_site_app_neither_decides_nor_analyses(world: World, role: str) -> None:
    body = {"role": role, **({} if role == "admin" else {"study": world.study})}
    assert told(world.admin.post(f"{a_site_app(world)['path']}/grants", body)) == (422, "client_role_wrong")


def test_a_secret_takes_over_from_the_other(world: World) -> None:
    app = a_site_app(world)
    made = world.admin.post(f"{app['path']}/secrets", {"expires_in_days": 365, "overlap_hours": 48, **WHY})
    assert made.status_code == 201
    new = made.json()["client_secret"]
    assert token_of(world, app).status_code == token_of(world, app, new).status_code == 200
    assert told(world.admin.post(f"{app['path']}/secrets", WHY)) == (409, "two_secrets_valid")
    shown = world.admin.get(app["path"])
    old_read, new_read = shown.json()["secrets"]
    assert set(old_read) == {"id", "created_at", "expires_at", "last_used_at", "revoked"}
    assert new not in shown.text
    assert old_read["expires_at"][:16] == (now() + timedelta(hours=48)).isoformat()[:16]
    assert new_read["expires_at"][:10] == (now() + timedelta(days=365)).isoformat()[:10]
    with world.registry.database.write() as session:
        digests = [row.digest for row in session.exec(select(ClientSecret)).all()]
        session.get_one(ClientSecret, UUID(app["secret_id"])).expires_at = now()
    assert not [digest for digest in digests if digest in shown.text]
    assert token_of(world, app).status_code == 401
    assert world.admin.post(f"{app['path']}/secrets", {"overlap_hours": 0, **WHY}).status_code == 201
    assert token_of(world, app, new).status_code == 401


def test_a_revoked_secret_takes_its_tokens_along(world: World) -> None:
    app = a_site_app(world)
    token = token_of(world, app)
    path = f"{app['path']}/secrets/{app['secret_id']}/revocation"
    answer = world.admin.post(path, WHY)
    assert (answer.status_code, [one["revoked"] for one in answer.json()["secrets"]]) == (201, [True])
    assert not speaks(world, token)
    assert token_of(world, app).status_code == 401
    assert told(world.admin.post(path, WHY)) == (404, "not_found")
    assert "digest" not in last_entry(world, "client-secret:revoked").changes


def links(world: World, person: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What the trail tells of a person's links, oldest first: the action, the subject before and after."""
    linking = (AuditEntry.subject_id == person["id"], col(AuditEntry.action).contains("identity"))
    with world.registry.database.read() as session:
        entries = session.exec(select(AuditEntry).where(*linking).order_by(col(AuditEntry.seq))).all()
    fields = [{one["field"]: one for one in json.loads(entry.changes)}["oidc_subject"] for entry in entries]
    return [(entry.action, one["old"], one["new"]) for entry, one in zip(entries, fields, strict=True)]


def test_an_existing_link_is_not_remembered_again(world: World) -> None:
    person, subject = a_person(world), uuid4().hex
    for given in (subject, subject, None, None):
        assert world.admin.post(f"{person['path']}/identity", {"subject": given, **WHY}).status_code == 201
    linked, unlinked = ("account:identity-linked", None, subject), ("account:identity-unlinked", subject, None)
    assert links(world, person) == [linked, unlinked]


def test_two_links_at_once_are_remembered_one_after_the_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    person, append, begun = a_person(world), audit.append, []
    one, other = ({"subject": uuid4().hex, **WHY} for _ in range(2))

    def and_another_comes(*given: Any) -> None:
        append(*given)
        if not begun:
            begun.append(thread.submit(world.admin.post, f"{person['path']}/identity", other))
            if not world.on_sqlite:
                until_somebody_waits(world)

    monkeypatch.setattr(audit, "append", and_another_comes)
    with ThreadPoolExecutor(1) as thread:
        assert world.admin.post(f"{person['path']}/identity", one).status_code == 201
        assert begun[0].result().status_code == 201
    first, second = one["subject"], other["subject"]
    told = "account:identity-linked"
    assert links(world, person) == [(told, None, first), (told, first, second)]


@pytest.fixture
def two_admins(world: World) -> Iterator[list[Account]]:
    """A registry with two admins and no other."""
    admins = [world.account((Role.admin, None)) for _ in range(2)]
    serving = [col(Account.kind) == AccountKind.user, col(Account.disabled_at).is_(None)]
    with world.registry.database.write() as session:
        others = (
            select(Account)
            .join(RoleGrant, col(RoleGrant.account_id) == col(Account.id))
            .where(RoleGrant.role == Role.admin, *serving)
            .distinct()
        )
        put_out = [one for one in session.exec(others).all() if one.id not in {admin.id for admin in admins}]
        for one in put_out:
            one.disabled_at = now()
    yield admins
    with world.registry.database.write() as session:
        for one in put_out:
            session.get_one(Account, one.id).disabled_at = None


def _caller(world: World, account: Account) -> Caller:
    with world.registry.database.read() as session:
        return Caller(world.registry.client, world.token(session.get_one(Account, account.id)))


def _grant_path(caller: Caller, account: Account) -> str:
    (grant,) = caller.get(f"/v1/users/{account.id}").json()["grants"]
    return f"/v1/users/{account.id}/grants/{grant['id']}/revocation"


def test_the_last_admin_stays(world: World, two_admins: list[Account]) -> None:
    one, other = two_admins
    caller = _caller(world, one)
    assert caller.post(_grant_path(caller, other), WHY).status_code == 201
    path = f"/v1/users/{one.id}"
    assert told(caller.post(_grant_path(caller, one), WHY)) == (409, "last_admin")
    refused = caller.patch(path, {"disabled": True, **WHY}, caller.get(path).headers["ETag"])
    assert told(refused) == (409, "last_admin")
    assert caller.get(path).json()["disabled"] is False


@pytest.mark.parametrize("ways", [("grant", "grant"), ("disable", "disable"), ("grant", "disable")])
def test_two_admins_cannot_remove_each_other(world: World, two_admins: list[Account], ways: tuple[str, str]) -> None:
    callers = [_caller(world, one) for one in two_admins]
    steps = []
    for caller, victim, way in zip(callers, reversed(two_admins), ways, strict=True):
        path = f"/v1/users/{victim.id}"
        seen = caller.get(path).headers["ETag"]
        grant = _grant_path(caller, victim)
        steps.append(
            (lambda c=caller, g=grant: c.post(g, WHY))
            if way == "grant"
            else (lambda c=caller, p=path, s=seen: c.patch(p, {"disabled": True, **WHY}, s))
        )
    together = Barrier(2)

    def at_once(step: Any) -> int:
        together.wait()
        return int(step().status_code)

    with ThreadPoolExecutor(2) as threads:
        statuses = sorted(threads.map(at_once, steps))
    assert statuses[0] in {200, 201}
    assert statuses[1] in {401, 403, 409}
    with world.registry.database.read() as session:
        left = session.exec(
            select(Account.id)
            .join(RoleGrant, col(RoleGrant.account_id) == col(Account.id))
            .where(
                RoleGrant.role == Role.admin, col(RoleGrant.revoked_at).is_(None), col(Account.disabled_at).is_(None)
            )
        ).all()
    assert len(left) == 1
