"""Break-glass: one asks with a reason, another approves, the first reads once, within a day."""

import json
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from app.models.account import Role
from app.models.base import now
from app.models.label_disclosure import LabelDisclosure
from app.models.participant import VaultIdentity
from app.pid import normalise
from tests.course_cases import WITHDRAWAL
from tests.label_cases import APPROVED, PATH, a_disclosure, approved, asking
from tests.world import Caller, World, label, without_role


def of_somebody(world: World) -> tuple[str, str]:
    """The pid and the label of a new participant of site A."""
    theirs = label()
    return world.enrolled(site_local_id=theirs), theirs


def test_the_person_who_asked_reads_the_label_once_after_another_approved(world: World) -> None:
    pid, theirs = of_somebody(world)
    path = world.monitor.post(PATH, asking(pid)).headers["Location"]
    assert world.monitor.post(f"{path}/reading", {}).json()["code"] == "disclosure_not_approved"
    assert world.custodian.post(f"{path}/decision", APPROVED).json()["status"] == "approved"
    assert world.monitor.post(f"{path}/reading", {}).json() == {"site": "A", "site_local_id": theirs}
    again = world.monitor.post(f"{path}/reading", {})
    assert (again.status_code, again.json()["code"]) == (410, "disclosure_spent")
    assert world.monitor.get(path).json()["status"] == "read"


def test_a_lost_label_key_is_reported_and_the_label_can_be_read_later(world: World) -> None:
    pid, theirs = of_somebody(world)
    path = approved(world, world.monitor.post(PATH, asking(pid)).headers["Location"])
    with world.registry.database.write() as session:
        ((kept,),) = session.execute(select(VaultIdentity.kek_id).where(col(VaultIdentity.pid) == normalise(pid)))
        session.execute(update(VaultIdentity).values(kek_id="0" * len(kept)))
    lost = world.monitor.post(f"{path}/reading", {})
    assert (lost.status_code, lost.json()["code"]) == (503, "label_key_missing")
    with world.registry.database.write() as session:
        session.execute(update(VaultIdentity).values(kek_id=kept))
    assert world.monitor.post(f"{path}/reading", {}).json()["site_local_id"] == theirs


def test_only_the_person_who_asked_can_use_an_approval(world: World) -> None:
    path = approved(world, a_disclosure(world))
    for other in (world.custodian, world.caller((Role.monitor, None))):
        assert other.post(f"{path}/reading", {}).status_code == 404
    assert world.monitor.post(f"{path}/reading", {}).status_code == 200


def test_nobody_approves_their_own_request_nor_decides_twice(world: World) -> None:
    path = a_disclosure(world, by=world.custodian)
    assert world.custodian.post(f"{path}/decision", APPROVED).json()["code"] == "second_person_needed"
    refusal = {"decision": "refuse", "reason": "no ground for it"}
    other = world.caller((Role.custodian, None))
    assert other.post(f"{path}/decision", refusal).json()["status"] == "refused"
    assert other.post(f"{path}/decision", APPROVED).json()["code"] == "disclosure_decided"
    assert world.custodian.post(f"{path}/reading", {}).json()["code"] == "disclosure_not_approved"


def test_the_database_itself_wants_a_second_person_and_a_reading_in_time(world: World) -> None:
    asked, open_one = (UUID(a_disclosure(world).rpartition("/")[2]) for _ in range(2))
    approved(world, f"{PATH}/{open_one}")
    late = now() + timedelta(hours=25)
    attempts = (
        (asked, {"status": "approved", "decided_by": col(LabelDisclosure.requested_by)}),
        (asked, {"status": "read", "read_at": now()}),
        (open_one, {"status": "read", "read_at": late}),
    )
    for which, values in attempts:
        with pytest.raises(IntegrityError), world.registry.database.write() as session:
            session.execute(update(LabelDisclosure).where(col(LabelDisclosure.id) == which).values(**values))


def test_an_approval_ends_after_a_day(world: World) -> None:
    path = approved(world, a_disclosure(world))
    with world.registry.database.write() as session:
        row = session.get_one(LabelDisclosure, UUID(path.rpartition("/")[2]))
        assert row.open_until is not None
        assert timedelta(hours=23) < row.open_until - now() <= timedelta(hours=24)
        row.open_until = now()
    assert world.monitor.post(f"{path}/reading", {}).json()["code"] == "disclosure_spent"


def test_an_erased_label_cannot_be_read_by_anybody(world: World) -> None:
    pid, _ = of_somebody(world)
    path = approved(world, world.monitor.post(PATH, asking(pid)).headers["Location"])
    world.staff_a.post(f"/v1/participants/{pid}/withdrawals", {**WITHDRAWAL, "scope": "identity"})
    answer = world.monitor.post(f"{path}/reading", {})
    assert (answer.status_code, answer.json()["code"]) == (410, "label_erased")


def test_a_monitor_asks_only_about_sites_that_are_assigned(world: World) -> None:
    theirs = world.enrolled("B")
    assert world.monitor_a.post(PATH, asking(theirs)).json()["code"] == "not_found"
    assert world.monitor_a.post(PATH, asking(world.enrolled("A"))).status_code == 201


def test_a_monitor_sees_own_requests_and_a_custodian_all_of_the_study(world: World) -> None:
    path = a_disclosure(world)
    assert world.monitor_a.get(path).status_code == 404
    assert world.monitor_a.get(PATH).json()["items"] == []
    assert [f"{PATH}/{one['id']}" for one in world.custodian.get(PATH, status="requested").json()["items"]] == [path]
    assert world.custodian.get(PATH, status="read").json()["items"] == []


def test_every_step_is_in_the_trail_of_the_site_and_none_holds_the_label(world: World) -> None:
    pid, theirs = of_somebody(world)
    path = approved(world, world.monitor.post(PATH, asking(pid)).headers["Location"])
    assert theirs in world.monitor.post(f"{path}/reading", {}).text
    entries = world.monitor.get("/v1/audit-entries", limit=500).json()["items"]
    told = {entry["action"] for entry in entries if entry["action"].startswith("label:")}
    assert told == {"label:approved", "label:asked-for", "label:read"}
    assert theirs not in json.dumps(entries)
    changes = world.staff_a.get("/v1/changes").text
    assert "label_disclosure" in changes, "the site learns of it"
    assert theirs not in changes


def test_a_label_that_was_read_is_kept_nowhere_for_a_retry(world: World) -> None:
    path = approved(world, a_disclosure(world))
    key = "00000000-0000-4000-8000-0000000000aa"
    assert world.monitor.post(f"{path}/reading", {}, key=key).status_code == 200
    again = world.monitor.post(f"{path}/reading", {}, key=key)
    assert (again.status_code, "Idempotent-Replayed" in again.headers) == (410, False)


def test_an_approval_is_worth_nothing_once_the_site_is_taken_away(world: World) -> None:
    account = world.account((Role.monitor, "A"), (Role.monitor, "B"))
    monitor = Caller(world.registry.client, world.token(account))
    path = approved(world, a_disclosure(world, "A", monitor))
    left = without_role(world, account, "A")
    assert left.post(f"{path}/reading", {}).status_code == 404
    assert left.get(path).status_code == 404, "it tells of somebody at that site"
    assert left.get(PATH).json()["items"] == []
    assert left.post(f"{approved(world, a_disclosure(world, 'B', left))}/reading", {}).json()["site"] == "B"
    assert f"{PATH}/{world.custodian.get(PATH).json()['items'][-1]['id']}" == path, "who decides sees it as before"
