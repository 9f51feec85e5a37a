"""What `registry doctor` says of work that was left undone, on both engines."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlmodel import Session

from app import audit
from app.models.account import Account
from app.models.base import now
from app.models.extract import Extract, ExtractStatus
from app.models.idempotency import IdempotencyRecord
from app.models.notification import Delivery, DeliveryState
from app.models.sync import SyncOperation, SyncState
from app.services.operations import backups, overdue_work
from app.settings import Settings
from tests.office import Office
from tests.outbox_cases import a_dead_delivery, a_subscription
from tests.world import World

LONG_AGO = now() - timedelta(days=400)


def told(world: World, *, every_entry: bool = False, **changes: object) -> Mapping[str, str | None]:
    settings: Settings = world.registry.app.state.settings.model_copy(update=changes)
    return dict(overdue_work.overdue(world.registry.served, settings, every_entry))


def left_undone(world: World, account: Account) -> list[object]:
    ids = {"study_id": world.study_id, "requested_by": account.id, "profile": "deidentified", "purpose": "x"}
    late = {"organisation": "O", "formats": '["csv"]', "expires_at": LONG_AGO, "updated_at": LONG_AGO}
    return [
        *(Extract(**ids, **late, status=status) for status in (ExtractStatus.building, ExtractStatus.ready)),
        IdempotencyRecord(
            account_id=account.id,
            key_digest=uuid4().hex * 2,
            request_digest="0" * 64,
            status=201,
            body="",
            created_at=LONG_AGO,
        ),
        *(
            SyncOperation(account_id=account.id, id=uuid4(), digest="0" * 64, state=state, created_at=LONG_AGO)
            for state in (SyncState.refused, SyncState.waiting)
        ),
    ]


def test_what_was_left_undone_is_named_with_what_to_do(world: World) -> None:
    world.enrolled()
    before = told(world)
    assert before["chains"] is None
    account = world.account()
    with world.registry.database.write() as session:
        rows = left_undone(world, account)
        session.add_all(rows)
    try:
        after = told(world)
    finally:
        with world.registry.database.write() as session:
            for row in rows:
                session.delete(session.merge(row))
    for check, word in (
        ("extracts", "not built"),
        ("daily jobs", "extracts expire"),
        ("apps' acts", "2 came over a week ago"),
    ):
        assert word in (after[check] or ""), after
    assert told(world) == before


def test_a_backup_that_is_missing_or_too_old_is_named(world: World, tmp_path: Path) -> None:
    assert told(world)["backup"] is None
    assert "there is none" in str(told(world, backup_folder=tmp_path)["backup"])
    if not world.on_sqlite:
        return
    for age, fault in ((timedelta(days=3), "3 days old"), (timedelta(hours=1), "None")):
        at = now() - age
        backups.make(world.registry.database, tmp_path / "database" / f"{at:%Y%m%d}", at)
        assert fault in str(told(world, backup_folder=tmp_path)["backup"])
    list(backups.forget(tmp_path / "database", 1))
    assert [place for _, place in backups.finished(tmp_path / "database")] == [tmp_path / "database" / f"{at:%Y%m%d}"]


def test_chains_that_sites_go_on_writing_to_are_not_called_broken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.enrolled()
    read = audit.heads

    def written_meanwhile(session: Session) -> dict[int, audit.Head]:
        heads = read(session)
        world.enrolled()
        return heads

    monkeypatch.setattr(audit, "heads", written_meanwhile)
    assert told(world, every_entry=True)["chains"] is None


def messages(world: World) -> tuple[str | None, dict[str, int]]:
    """What `doctor` says of them, and the figures."""
    with world.registry.served.read() as session:
        return told(world)["messages"], {
            state: one.messages for state, one in overdue_work.undelivered(session).items()
        }


def test_a_message_waits_for_no_worker_while_its_subscription_is_disabled(world: World) -> None:
    Office(world)
    made = a_subscription(world)
    before = messages(world)
    assert before[0] is None
    sent = world.admin.post(f"{made['path']}/test", {}).json()
    with world.registry.database.write() as session:
        session.get_one(Delivery, UUID(sent["id"])).next_attempt_at = LONG_AGO
    said, counted = messages(world)
    assert said == "1 wait for over an hour: see that registry deliver runs"
    assert counted == {**before[1], "pending": before[1]["pending"] + 1}
    tag = world.admin.patch(made["path"], {"disabled": True, "reason": "serviced"}, made["tag"]).headers["ETag"]
    assert messages(world) == (None, {**before[1], "paused": before[1]["paused"] + 1})
    world.admin.patch(made["path"], {"disabled": False, "reason": "back"}, tag)
    assert messages(world) == (said, counted)


def test_one_message_that_was_given_up_is_dismissed_while_its_receiver_lives(world: World) -> None:
    Office(world)
    before = messages(world)
    path = a_dead_delivery(world)
    said, counted = messages(world)
    assert "dismiss" in (said or "")
    assert counted == {**before[1], "dead": before[1]["dead"] + 1}
    assert world.admin.post(f"{path}/dismissal", {"reason": "told by telephone"}).json()["state"] == "dismissed"
    assert messages(world) == before


def test_what_was_given_up_is_settled_by_disabling_the_subscription_of_a_receiver_that_is_gone(world: World) -> None:
    Office(world)
    before = messages(world)
    sent = world.admin.get(a_dead_delivery(world).rpartition("/")[0], state=DeliveryState.dead).json()["items"][0]
    said, counted = messages(world)
    assert "1 were given up" in (said or "")
    assert "disable" in (said or "")
    assert counted == {**before[1], "dead": before[1]["dead"] + 1}
    path = f"/v1/subscriptions/{sent['subscription']}"
    tag = world.admin.get(path).headers["ETag"]
    world.admin.patch(path, {"disabled": True, "reason": "the receiver is gone for good"}, tag)
    assert messages(world) == (None, {**before[1], "paused": before[1]["paused"] + 1})
