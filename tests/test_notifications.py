"""Notifications: events and their messages are stored together; admins manage subscriptions and see deliveries."""

import json
from datetime import timedelta
from threading import Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlmodel import select

from app.database import Database
from app.models.audit import REGISTRY_CHAIN, AuditEntry
from app.models.base import now, table_of
from app.models.notification import Delivery, EventType, Notification, SubjectType, Subscription
from app.services.notifications import outbox
from tests.office import Office
from tests.outbox_cases import a_dead_delivery, a_subscription
from tests.route_cases import an_extract
from tests.world import World

SERIOUS = {"criteria": {"hospitalisation": True}, "aware_at": "2025-02-03T10:00:00Z"}


@pytest.fixture
def office(world: World) -> Office:
    return Office(world)


def told(world: World, subscription: dict[str, Any]) -> list[tuple[str, UUID]]:
    """The events that a subscription is told of, and their subjects."""
    statement = (
        select(Notification.type, Notification.subject_id)
        .join(Delivery)
        .where(Delivery.subscription_id == UUID(subscription["id"]))
        .order_by(Notification.occurred_at)  # type: ignore[arg-type]
    )
    with world.registry.database.read() as session:
        return [(row.type, row.subject_id) for row in session.execute(statement)]


def test_a_serious_event_is_notified_and_an_ordinary_one_is_not(world: World) -> None:
    everything = a_subscription(world)
    pid = world.enrolled()
    world.staff_a.post("/v1/adverse-events", world.event(pid))
    event = world.staff_a.post("/v1/adverse-events", world.event(pid, **SERIOUS)).json()
    assert told(world, everything) == [("adverse_event.serious", UUID(event["id"]))]


def test_each_further_criterion_of_an_event_is_notified(world: World) -> None:
    everything = a_subscription(world)
    made = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled()))
    tag, counted = made.headers["ETag"], []
    hospital, died, alive = {"hospitalisation": True}, {"death": True}, {"death": False}
    for change in ({"criteria": hospital}, {"severity": "severe"}, {"criteria": died}, {"criteria": alive}):
        body = {**change, "reason": "the ward telephoned"}
        tag = world.staff_a.patch(made.headers["Location"], body, tag).headers["ETag"]
        counted.append(len(told(world, everything)))
    assert counted == [1, 1, 2, 2]
    assert set(told(world, everything)) == {("adverse_event.serious", UUID(made.json()["id"]))}


def test_a_crossed_boundary_is_notified_when_it_is_reported_or_first_marked(world: World) -> None:
    everything = a_subscription(world, event_types=["adverse_event.alert"])
    pid = world.enrolled()
    reported, called = (
        world.staff_a.post("/v1/adverse-events", world.event(pid, special_interest=kind))
        for kind in ("misconduct", "bruxism")
    )
    first, second = (("adverse_event.alert", UUID(event.json()["id"])) for event in (reported, called))
    assert told(world, everything) == [first]
    tag = called.headers["ETag"]
    for change in ({"special_interest": "misconduct"}, {"severity": "severe"}):
        body = {**change, "reason": "the participant telephoned"}
        tag = world.staff_a.patch(called.headers["Location"], body, tag).headers["ETag"]
    assert told(world, everything) == [first, second]


def test_an_approved_extract_is_notified_and_a_refused_one_is_not(world: World) -> None:
    everything = a_subscription(world)
    refused = an_extract(world)
    world.custodian.post(f"{refused}/approval", {"decision": "refuse", "reason": "no agreed use"})
    ready = an_extract(world, approved=True)
    assert told(world, everything) == [("extract.ready", UUID(ready.rpartition("/")[2]))]


def test_subscribers_get_only_their_own_study_site_and_events(world: World) -> None:
    elsewhere = a_subscription(World(world.registry))
    of_b = a_subscription(world, site="B")
    of_a = a_subscription(world, site="A")
    of_extracts = a_subscription(world, event_types=["extract.ready"])
    world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), **SERIOUS))
    an_extract(world, approved=True)
    counted = [len(told(world, one)) for one in (elsewhere, of_b, of_a, of_extracts)]
    assert counted == [0, 0, 1, 1]


def test_what_is_rolled_back_is_not_notified(world: World) -> None:
    everything = a_subscription(world)

    def told_and_failed() -> None:
        with world.registry.database.write() as session:
            outbox.notify(session, EventType.extract_ready, None, world.study_id, SubjectType.extract, uuid4())
            raise KeyError

    with pytest.raises(KeyError):
        told_and_failed()
    assert told(world, everything) == []


def test_an_overdue_event_is_notified_once_for_each_due_time(world: World, office: Office) -> None:
    everything = a_subscription(world, event_types=["adverse_event.overdue"])
    made = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), **SERIOUS))
    overdue = ("adverse_event.overdue", UUID(made.json()["id"]))
    settings = world.registry.app.state.settings
    with Database(settings, for_server=True) as one, Database(settings, for_server=True) as other:
        looks = [Thread(target=office.courier(database).look_for_overdue) for database in (one, other, one, other)]
        for look in looks:
            look.start()
        for look in looks:
            look.join()
    assert told(world, everything) == [overdue]
    body = {"aware_at": "2025-02-04T10:00:00Z", "reason": "misread the fax"}
    assert world.staff_a.patch(made.headers["Location"], body, made.headers["ETag"]).is_success
    office.courier().look_for_overdue()
    office.courier().look_for_overdue()
    assert told(world, everything) == [overdue, overdue]


def test_an_event_is_notified_when_its_due_time_has_passed(world: World, office: Office) -> None:
    everything = a_subscription(world, event_types=["adverse_event.overdue"])
    event = world.event(world.enrolled(), **{**SERIOUS, "aware_at": now().isoformat().replace("+00:00", "Z")})
    world.staff_a.post("/v1/adverse-events", event)
    office.courier().look_for_overdue()
    assert told(world, everything) == []
    office.clock.ahead += timedelta(hours=25)
    office.courier().look_for_overdue()
    assert len(told(world, everything)) == 1


def test_a_clock_that_starts_after_the_first_report_is_notified_when_it_has_run_out(
    world: World, office: Office
) -> None:
    everything = a_subscription(world, event_types=["adverse_event.overdue"])
    event = world.event(world.enrolled(), **{**SERIOUS, "aware_at": now().isoformat().replace("+00:00", "Z")})
    made = world.staff_a.post("/v1/adverse-events", event)
    assert world.staff_a.post(f"{made.headers['Location']}/reports", {"kind": "initial"}).status_code == 201
    office.clock.ahead += timedelta(hours=25)
    office.courier().look_for_overdue()
    assert told(world, everything) == []  # it was reported in time
    fatal = {"criteria": {"death": True}, "outcome": "fatal", "end": event["onset"], "reason": "died in hospital"}
    assert world.staff_a.patch(made.headers["Location"], fatal, made.headers["ETag"]).is_success
    office.clock.ahead += timedelta(hours=25)
    office.courier().look_for_overdue()
    office.courier().look_for_overdue()
    assert told(world, everything) == [("adverse_event.overdue", UUID(made.json()["id"]))]


def test_a_webhooks_secret_is_shown_once_and_stored_sealed(world: World) -> None:
    made = a_subscription(world)
    assert made["secret"].startswith("whsec_")
    renewed = world.admin.post(f"{made['path']}/secret", {"reason": "yearly"}).json()["secret"]
    assert renewed != made["secret"]
    shown = [world.admin.get(made["path"]).text, world.admin.get("/v1/subscriptions").text]
    with world.registry.database.read() as session:
        kept = session.exec(select(AuditEntry.changes).where(AuditEntry.subject_id == made["id"])).all()
        stored = [row.sealed for row in session.execute(table_of(Subscription).select())]
    assert len(kept) == 2
    for secret in (made["secret"], renewed):
        assert not any(secret.removeprefix("whsec_") in text or "sealed" in text for text in [*shown, *kept])
        assert secret not in json.dumps(stored)


def test_an_address_that_may_hold_a_key_is_in_no_audit_entry(world: World) -> None:
    made = a_subscription(world, address="https://r.example.org/hook?key=Zq-marker-78")
    assert world.admin.get(made["path"]).json()["address"].endswith("Zq-marker-78")
    with world.registry.database.read() as session:
        assert not any("marker-78" in text for text in session.exec(select(AuditEntry.changes)).all())


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("webhook", "ftp://r.example.org/"),
        ("webhook", "https://user:pass@r.example.org/"),
        ("webhook", "https://r.example.org:99999/"),
        ("webhook", "https:///hook"),
        ("webhook", "safety@example.org"),
        ("email", "https://r.example.org/"),
        ("email", "a@b@example.org"),
        ("email", "<safety@example.org>"),
        ("email", "safety@example.org,other@example.org"),
    ],
)
def test_an_address_fits_its_kind(world: World, kind: str, address: str) -> None:
    body = {"kind": kind, "address": address, "study": world.study, "event_types": ["extract.ready"]}
    answer = world.admin.post("/v1/subscriptions", body)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "address_unusable")


def test_mail_needs_a_mail_server_and_webhooks_need_https_in_production(world: World) -> None:
    state, body = world.registry.app.state, {"study": world.study, "event_types": ["extract.ready"]}
    mail = world.admin.post("/v1/subscriptions", {**body, "kind": "email", "address": "safety@example.org"})
    assert (mail.status_code, mail.json()["code"]) == (409, "mail_not_configured")
    demo, state.settings = state.settings, state.settings.model_copy(update={"environment": "production"})
    try:
        clear = world.admin.post("/v1/subscriptions", {**body, "kind": "webhook", "address": "http://r.example.org/"})
    finally:
        state.settings = demo
    assert (clear.status_code, clear.json()["code"]) == (409, "webhook_needs_https")


def test_subscriptions_and_deliveries_are_listed_as_asked(world: World) -> None:
    one, other = a_subscription(world, site="A"), a_subscription(world)
    dead = a_dead_delivery(world).rpartition("/")[2]
    world.admin.post(f"{other['path']}/test", {})
    listed = world.admin.get("/v1/subscriptions", study=world.study, limit="1")
    assert len(listed.json()["items"]) == 1
    assert 'rel="next"' in listed.headers["Link"]
    everything = world.admin.get("/v1/subscriptions", study=world.study).json()["items"]
    assert [item["id"] for item in everything][1:] == [other["id"], one["id"]]
    assert [item["site"] for item in everything][1:] == [None, "A"]
    nobody_took = world.admin.get("/v1/deliveries", state="dead").json()["items"]
    assert dead in [item["id"] for item in nobody_took]
    (item,) = world.admin.get("/v1/deliveries", subscription=other["id"]).json()["items"]
    assert (item["type"], item["state"], item["attempts"]) == ("subscription.test", "pending", 0)


def test_only_what_is_over_is_replayed_and_only_what_is_enabled_is_tested(world: World) -> None:
    made = a_subscription(world)
    why = {"reason": "receiver is back"}
    tested = world.admin.post(f"{made['path']}/test", {}).json()
    pending = world.admin.post(f"/v1/deliveries/{tested['id']}/replay", why)
    assert (pending.status_code, pending.json()["code"]) == (409, "delivery_pending")
    world.admin.patch(made["path"], {"disabled": True, "reason": "receiver moved"}, made["tag"])
    refused = world.admin.post(f"{made['path']}/test", {})
    assert (refused.status_code, refused.json()["code"]) == (409, "subscription_disabled")
    assert world.admin.post(f"/v1/deliveries/{uuid4()}/replay", why).status_code == 404


def test_a_dead_message_is_dismissed_with_a_reason_that_the_trail_keeps(world: World) -> None:
    path, why = a_dead_delivery(world), "the office was told by telephone"
    told = world.admin.post(f"{path}/dismissal", {"reason": why})
    assert (told.status_code, told.json()["state"], told.json()["next_attempt_at"]) == (201, "dismissed", None)
    delivery = path.rpartition("/")[2]
    shown = world.admin.get("/v1/deliveries", state="dismissed").json()["items"]
    assert delivery in [one["id"] for one in shown]
    kept = select(AuditEntry).where(AuditEntry.subject_id == delivery, AuditEntry.action == "delivery:dismissed")
    with world.registry.database.read() as session:
        entry = session.exec(kept).one()
    assert (entry.site_id, entry.reason) == (REGISTRY_CHAIN, why)
    assert {"field": "state", "new": "dismissed", "old": "dead"} in json.loads(entry.changes)
    assert world.admin.post(f"{path}/replay", {"reason": "it is wanted"}).json()["state"] == "pending"


def test_only_a_dead_message_is_dismissed(world: World) -> None:
    path, why = a_dead_delivery(world), {"reason": "told by telephone"}
    assert world.admin.post(f"{path}/dismissal", {}).status_code == 422
    assert world.admin.post(f"{path}/replay", why).status_code == 201
    pending = world.admin.post(f"{path}/dismissal", why)
    assert (pending.status_code, pending.json()["code"]) == (409, "delivery_not_dead")
    assert world.admin.post(f"/v1/deliveries/{uuid4()}/dismissal", why).status_code == 404


def test_a_change_needs_the_version_that_was_seen(world: World) -> None:
    made = a_subscription(world)
    change = {"event_types": ["safety_signal.raised"], "reason": "new duty"}
    changed = world.admin.patch(made["path"], change, made["tag"])
    assert changed.json()["event_types"] == ["safety_signal.raised"]
    assert world.admin.patch(made["path"], change, made["tag"]).status_code == 412
    assert world.admin.patch(made["path"], change).status_code == 428
