"""Reach: which rows exist for whom, through lists, filters, nested ids and cursors."""

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlmodel import func, select

from app.access import KnownActors, ScopeMissing, load_actor, visible
from app.models.account import Account, Role, RoleGrant
from app.models.audit import AuditChain
from app.models.base import now
from app.models.study import Study
from app.models.visit import Visit
from app.permissions import Permission
from tests.closing_cases import a_lock, a_verification
from tests.label_cases import a_disclosure
from tests.monitor_cases import a_question, an_event
from tests.route_cases import a_signature, a_visit, an_extract
from tests.world import Caller, World, madrs

LISTS = (
    "/v1/participants",
    "/v1/visits",
    "/v1/outcomes",
    "/v1/adverse-events",
    "/v1/signatures",
    "/v1/data-queries",
    "/v1/locks",
    "/v1/verifications",
)


def everything(world: World) -> None:
    """One record of every kind at both sites."""
    for site in ("A", "B"):
        a_visit(world, site)
        an_event(world, site)
        a_signature(world, site)
        a_question(world, site)
        a_lock(world, site)
        a_verification(world, site)


def sites_seen(caller: Caller, path: str, **filters: str) -> set[str]:
    answer = caller.get(path, limit="500", **filters)
    assert answer.status_code == 200, answer.text
    return {item["site"] for item in answer.json()["items"]}


def test_lists_hold_only_rows_of_granted_sites(world: World) -> None:
    everything(world)
    for path in LISTS:
        assert sites_seen(world.staff_a, path, study=world.study) == {"A"}
        assert sites_seen(world.monitor_a, path, study=world.study) == {"A"}
        assert sites_seen(world.monitor, path, study=world.study) == {"A", "B"}


def test_a_filter_cannot_reach_over_the_fence(world: World) -> None:
    everything(world)
    foreign = world.enrolled("B")
    for path in LISTS:
        assert world.staff_a.get(path, site="B").status_code == 404
    for path in LISTS[1:]:
        assert sites_seen(world.staff_a, path, participant=foreign) == set()


def test_a_visit_cannot_be_posted_for_another_sites_participant(world: World) -> None:
    foreign = world.enrolled("B")
    answer = world.staff_a.post("/v1/visits", world.visit(foreign))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_an_outcome_cannot_be_hung_on_another_sites_visit(world: World) -> None:
    visit = a_visit(world, "B").json()
    own = world.enrolled("A")
    answer = world.staff_a.post("/v1/outcomes", {"participant": own, "visit": visit["id"], **madrs(1)})
    assert answer.status_code == 404


def test_one_roles_reach_never_serves_the_other_roles_right(world: World) -> None:
    """Staff at A and monitor at B: reads both, writes only at A."""
    both = world.caller((Role.site_staff, "A"), (Role.monitor, "B"))
    everything(world)
    assert sites_seen(both, "/v1/visits", study=world.study) == {"A", "B"}
    assert both.post("/v1/adverse-events", world.event(world.enrolled("A"))).status_code == 201
    assert both.post("/v1/adverse-events", world.event(world.enrolled("B"))).status_code == 404


def test_a_grant_in_one_study_says_nothing_about_another(world: World) -> None:
    other = World(world.registry)
    a_visit(world, "A")
    assert other.monitor.get("/v1/visits", study=world.study).status_code == 404
    assert other.monitor.get(f"/v1/studies/{world.study}/sites").status_code == 404


@pytest.mark.parametrize(
    ("role", "path", "a_request"),
    [(Role.monitor, "/v1/label-disclosures", a_disclosure), (Role.analyst, "/v1/extracts", an_extract)],
)
def test_a_custodian_of_another_study_sees_only_their_own_requests_in_this_one(
    world: World, role: Role, path: str, a_request: Callable[[World], str]
) -> None:
    other, account = World(world.registry), world.account((role, None))
    with world.registry.database.write() as session:
        session.add(RoleGrant(account_id=account.id, role=Role.custodian, study_id=other.study_id))
    both = Caller(world.registry.client, world.token(account))
    theirs, elsewhere = a_request(world), a_request(other)
    assert both.get(theirs).status_code == 404
    assert [f"{path}/{one['id']}" for one in both.get(path).json()["items"]] == [elsewhere]
    assert both.get(elsewhere).status_code == 200


def test_an_admin_sees_studies_and_accounts_but_no_clinical_row(world: World) -> None:
    everything(world)
    for path in LISTS:
        assert world.admin.get(path).status_code == 403
    assert world.study in {study["code"] for study in world.admin.get("/v1/studies").json()["items"]}


def test_a_revoked_grant_ends_at_once(world: World) -> None:
    account = world.account((Role.monitor, "A"))
    caller = Caller(world.registry.client, world.token(account))
    assert caller.get("/v1/visits").status_code == 200
    with world.registry.database.write() as session:
        grant = session.exec(select(RoleGrant).where(RoleGrant.account_id == account.id)).one()
        grant.revoked_at = now()
    assert caller.get("/v1/visits").status_code == 403


def test_a_token_from_before_a_change_of_grants_is_refused(world: World) -> None:
    account = world.account((Role.monitor, "A"))
    caller = Caller(world.registry.client, world.token(account))
    body = {"role": "monitor", "study": world.study, "sites": ["B"]}
    assert world.admin.post(f"/v1/users/{account.id}/grants", body).status_code == 201
    answer = caller.get("/v1/visits")
    assert (answer.status_code, answer.json()["code"]) == (401, "grants_changed")


def test_a_disabled_account_is_refused(world: World) -> None:
    account = world.account((Role.monitor, "A"))
    caller = Caller(world.registry.client, world.token(account))
    with world.registry.database.write() as session:
        session.get_one(Account, account.id).disabled_at = now()
    assert caller.get("/v1/visits").status_code == 401


def pages(caller: Caller, path: str, **filters: str) -> list[str]:
    seen, cursor = [], None
    while True:
        answer = caller.get(path, limit="2", **filters, **({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert len(body["items"]) <= 2
        seen += [item["id"] for item in body["items"]]
        cursor = body["next"]
        assert (cursor is None) == ("Link" not in answer.headers)
        if cursor is None:
            return seen


def test_pages_show_every_row_once_newest_first(world: World) -> None:
    pid = world.enrolled()
    made = [world.staff_a.post("/v1/adverse-events", world.event(pid)).json()["id"] for _ in range(7)]
    assert pages(world.monitor, "/v1/adverse-events", study=world.study) == made[::-1]


def test_the_next_link_can_be_followed_as_it_stands(world: World) -> None:
    pid = world.enrolled()
    for _ in range(3):
        world.staff_a.post("/v1/adverse-events", world.event(pid))
    first = world.monitor.get("/v1/adverse-events", limit="2", study=world.study)
    link = first.headers["Link"]
    assert link.endswith('; rel="next"')
    path, _, query = link[1 : link.index(">")].partition("?")
    following = world.monitor.get(path, **dict(pair.split("=") for pair in query.split("&")))
    assert len(following.json()["items"]) == 1


def test_a_cursor_is_sealed_to_its_reader_its_filter_and_its_list(world: World) -> None:
    pid = world.enrolled()
    for _ in range(3):
        assert world.staff_a.post("/v1/adverse-events", world.event(pid)).status_code == 201
        world.staff_a.post("/v1/visits", world.visit(pid, "UNS", occurrence=_ + 1))
    cursor = world.monitor.get("/v1/adverse-events", limit="2").json()["next"]
    assert cursor
    tries = [
        world.monitor_a.get("/v1/adverse-events", limit="2", cursor=cursor),
        world.staff_a.get("/v1/adverse-events", limit="2", cursor=cursor),
        world.monitor.get("/v1/adverse-events", limit="2", cursor=cursor, severity="mild"),
        world.monitor.get("/v1/visits", limit="2", cursor=cursor),
        world.monitor.get("/v1/adverse-events", limit="2", cursor=cursor[:-2] + "AA"),
        world.monitor.get("/v1/adverse-events", limit="2", cursor="nonsense"),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in tries] == [(400, "cursor_invalid")] * len(tries)
    assert world.monitor.get("/v1/adverse-events", limit="1", cursor=cursor).status_code == 200


def test_a_cursor_dies_with_the_grants_it_was_made_under(world: World) -> None:
    account = world.account((Role.monitor, "A"), (Role.monitor, "B"))
    pid = world.enrolled()
    for _ in range(3):
        world.staff_a.post("/v1/adverse-events", world.event(pid))
    cursor = Caller(world.registry.client, world.token(account)).get("/v1/adverse-events", limit="2").json()["next"]
    with world.registry.database.write() as session:
        grants = session.exec(select(RoleGrant).where(RoleGrant.account_id == account.id)).all()
        next(grant for grant in grants if grant.site_id == world.site_ids["B"]).revoked_at = now()
    answer = Caller(world.registry.client, world.token(account)).get("/v1/adverse-events", limit="2", cursor=cursor)
    assert (answer.status_code, answer.json()["code"]) == (400, "cursor_invalid")


@pytest.mark.parametrize("path", ["/v1/adverse-events", "/v1/audit-entries"])
def test_a_cursor_dies_with_one_grant_where_another_reaches_the_same_sites(world: World, path: str) -> None:
    pid = world.enrolled("A")
    for _ in range(2):
        world.staff_a.post("/v1/adverse-events", world.event(pid))
    account = world.account((Role.monitor, "A"), (Role.site_staff, "A"))
    cursor = Caller(world.registry.client, world.token(account)).get(path, limit="1").json()["next"]
    assert cursor
    with world.registry.database.write() as session:
        grants = session.exec(select(RoleGrant).where(RoleGrant.account_id == account.id)).all()
        next(grant for grant in grants if grant.role == Role.monitor).revoked_at = now()
    answer = Caller(world.registry.client, world.token(account)).get(path, limit="1", cursor=cursor)
    assert (answer.status_code, answer.json()["code"]) == (400, "cursor_invalid")


def test_a_cursor_dies_with_the_grant_of_a_study_that_has_no_site_yet(world: World) -> None:
    code = f"S-{uuid4().hex}"
    assert world.admin.post("/v1/studies", {"code": code, "title": "T"}).status_code == 201
    account = world.account((Role.custodian, None))
    for _ in range(2):
        an_extract(world)
    with world.registry.database.write() as session:
        other = session.exec(select(Study.id).where(Study.code == code)).one()
        session.add(RoleGrant(account_id=account.id, role=Role.custodian, study_id=other))
    cursor = Caller(world.registry.client, world.token(account)).get("/v1/extracts", limit="1").json()["next"]
    assert cursor
    with world.registry.database.write() as session:
        session.exec(select(RoleGrant).where(RoleGrant.study_id == other)).one().revoked_at = now()
    answer = Caller(world.registry.client, world.token(account)).get("/v1/extracts", limit="1", cursor=cursor)
    assert (answer.status_code, answer.json()["code"]) == (400, "cursor_invalid")


def test_a_worker_looks_up_grants_again_after_the_stated_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    account = world.account((Role.monitor, "A"))
    claims = world.registry.app.state.tokens.verify(world.token(account))
    actor = load_actor(world.registry.database, claims, Permission.visit_read)
    clock = iter([100.9, 101.1])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    known = KnownActors(seconds=1.0)
    known.keep(claims, actor, since=100.0)
    assert known.get(claims, Permission.visit_read) == actor
    assert known.get(claims, Permission.visit_read) is None


def test_a_known_actor_serves_only_the_permission_it_was_looked_up_for(world: World) -> None:
    claims = world.registry.app.state.tokens.verify(world.monitor.token)
    known = KnownActors(seconds=60)
    actor = load_actor(world.registry.database, claims, Permission.visit_read)
    known.keep(claims, actor, time.monotonic())
    assert known.get(claims, Permission.visit_write) is None
    assert known.get(claims, Permission.visit_read) is not None


@pytest.mark.parametrize("statement", [select(func.count()).select_from(Visit), select(AuditChain)])
def test_a_statement_that_nothing_scopes_is_a_defect_not_an_open_door(world: World, statement: Any) -> None:
    claims = world.registry.app.state.tokens.verify(world.monitor.token)
    actor = load_actor(world.registry.database, claims, Permission.visit_read)
    with pytest.raises(ScopeMissing):
        visible(statement, actor)


def test_a_grant_given_twice_is_one_grant(world: World) -> None:
    account = world.account()
    body = {"role": "monitor", "study": world.study, "sites": ["A"]}
    for _ in range(2):
        answer = world.admin.post(f"/v1/users/{account.id}/grants", body)
        assert (answer.status_code, len(answer.json()["grants"])) == (201, 1)


def test_a_filter_given_twice_is_refused(world: World) -> None:
    answer = world.monitor.get("/v1/adverse-events", site=["A", "B"])
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/site")
