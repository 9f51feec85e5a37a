"""Messages arrive at least once, whatever fails in between, and say nothing that only the registry may say."""

import base64
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from sqlalchemy.exc import OperationalError

from app.commands.deliver import run
from app.database import Database
from app.models.base import now
from app.models.notification import EventType
from app.services.notifications.delivering import BATCH, LEASE, pause
from app.settings import Settings
from tests.forked import Forked
from tests.office import LOOPBACK, Office, require_one_delivered_beside_a_batch_that_hangs
from tests.outbox_cases import a_subscription
from tests.receivers import Receiver, running_receiver
from tests.server import ROOT, registry_command
from tests.world import World

LONG = timedelta(days=1)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def office(world: World) -> Office:
    return Office(world)


def subscribed(office: Office, receiver: Receiver, **changes: Any) -> dict[str, Any]:
    return a_subscription(office.world, address=receiver.url, **changes)


def verified(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """As a receiver checks it, by the text of Standard Webhooks 1.0."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body)
    wanted = base64.b64encode(mac.finalize()).decode()
    return headers["webhook-signature"].split(" ") == [f"v1,{wanted}"]


def test_a_message_says_what_happened_and_nothing_else(office: Office, receiver: Receiver) -> None:
    subscribed(office, receiver)
    world = office.world
    pid = world.enrolled(site_local_id="Zq-marker-79")
    serious = {"criteria": {"death": True}, "outcome": "fatal", "end": "2025-02-04", "term": "Zq-marker-80"}
    reported = world.staff_a.post("/v1/adverse-events", world.event(pid, **serious))
    assert reported.status_code == 201, reported.text
    event = reported.json()
    assert office.courier().deliver() == 1
    (got,) = receiver.got
    told = json.loads(got.body)
    assert told == {
        "delivery": got.id,
        "type": "adverse_event.serious",
        "subject": event["id"],
        "link": f"/v1/adverse-events/{event['id']}",
        "occurred_at": told["occurred_at"],
    }
    assert abs(datetime.fromisoformat(told["occurred_at"]) - now()) < timedelta(minutes=1)
    assert world.staff_a.get(told["link"]).json()["term"] == "Zq-marker-80"
    everything = got.body.decode() + json.dumps(got.headers)
    assert not any(word in everything for word in (pid, "marker", world.study, "fatal", "death"))
    assert got.headers.keys() == {
        *("host", "accept", "accept-encoding", "connection", "user-agent", "content-length", "content-type"),
        *("webhook-id", "webhook-timestamp", "webhook-signature"),
    }


def test_the_signature_is_verified_with_the_secret_that_was_shown(office: Office, receiver: Receiver) -> None:
    made = subscribed(office, receiver)
    office.tell(uuid4())
    office.courier().deliver()
    secret = office.world.admin.post(f"{made['path']}/secret", {"reason": "yearly"}).json()["secret"]
    office.tell(uuid4())
    office.courier().deliver()
    before, after = receiver.got
    assert verified(made["secret"], before.headers, before.body)
    assert verified(secret, after.headers, after.body)
    assert not verified(made["secret"], after.headers, after.body)
    assert not verified(secret, after.headers, after.body + b" ")
    assert not verified(secret, {**after.headers, "webhook-timestamp": "1"}, after.body)
    assert abs(int(after.headers["webhook-timestamp"]) - time.time()) < 30


def test_a_failing_receiver_is_tried_again_after_growing_pauses(office: Office, receiver: Receiver) -> None:
    subscribed(office, receiver)
    receiver.act = lambda _id, number: 500 if number < 4 else 200
    office.tell(uuid4())
    for attempt, longest in enumerate((5, 10, 20), start=1):
        assert office.courier().deliver() == 1
        (row,) = office.deliveries()
        assert (row.state, row.attempts, row.last_error) == ("pending", attempt, "http_500")
        wait = row.next_attempt_at.replace(tzinfo=UTC) - office.clock()
        assert timedelta(seconds=longest / 2 - 2) < wait <= timedelta(seconds=longest)
        assert office.courier().deliver() == 0
        office.clock.ahead += timedelta(seconds=longest)
    assert office.courier().deliver() == 1
    (row,) = office.deliveries()
    assert (row.state, row.attempts, row.last_error) == ("delivered", 4, None)
    assert office.courier().deliver() == 0
    assert len(set(receiver.ids)) == 1
    assert len({got.body for got in receiver.got}) == 1


def test_pauses_double_up_to_the_longest_and_differ() -> None:
    settings = Settings(environment="demo", delivery_pause_seconds=5, delivery_longest_pause_seconds=60)
    for attempt, longest in ((1, 5), (2, 10), (4, 40), (5, 60), (100, 60)):
        pauses = {pause(settings, attempt).total_seconds() for _ in range(200)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
        assert len(pauses) > 100


def test_what_a_receiver_kept_without_saying_so_comes_again_under_the_same_id(
    office: Office, receiver: Receiver
) -> None:
    subscribed(office, receiver)
    receiver.act = lambda _id, number: "cut" if number == 1 else 200
    office.tell(uuid4())
    office.courier().deliver()
    assert office.deliveries()[0].last_error == "connection_lost"
    office.clock.ahead += LONG
    office.courier().deliver()
    assert office.deliveries()[0].state == "delivered"
    assert receiver.ids == [str(office.deliveries()[0].id)] * 2
    assert receiver.got[0].body == receiver.got[1].body


def test_a_receiver_that_never_answers_costs_the_timeout_and_holds_up_nobody(world: World, receiver: Receiver) -> None:
    office = Office(world, delivery_timeout_seconds=0.4)
    subscribed(office, receiver)
    with running_receiver() as healthy:
        subscribed(office, healthy, event_types=["safety_signal.raised"])
        receiver.act = lambda _id, _number: "hang"
        for _ in range(BATCH + 1):
            office.tell(uuid4())
        office.tell(uuid4(), EventType.safety_signal_raised)
        require_one_delivered_beside_a_batch_that_hangs(office, healthy, left=2)


def test_a_message_that_nobody_takes_is_dead_until_an_admin_replays_it(office: Office, receiver: Receiver) -> None:
    made = subscribed(office, receiver)
    receiver.act = lambda _id, _number: 403
    office.tell(uuid4())
    for _ in range(office.settings.delivery_attempts):
        assert office.courier().deliver() == 1
        office.clock.ahead += LONG
    assert office.courier().deliver() == 0
    admin = office.world.admin
    (dead,) = admin.get("/v1/deliveries", state="dead", subscription=made["id"]).json()["items"]
    assert (dead["attempts"], dead["last_error"], dead["next_attempt_at"]) == (4, "http_403", None)
    receiver.act = lambda _id, _number: 200
    replayed = admin.post(f"/v1/deliveries/{dead['id']}/replay", {"reason": "receiver is back"})
    assert (replayed.status_code, replayed.json()["state"], replayed.json()["attempts"]) == (201, "pending", 0)
    assert office.courier().deliver() == 1
    (done,) = admin.get("/v1/deliveries", subscription=made["id"]).json()["items"]
    assert (done["state"], done["attempts"], done["last_error"]) == ("delivered", 1, None)
    assert set(receiver.ids) == {dead["id"]}


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(office: Office, receiver: Receiver, status: int) -> None:
    subscribed(office, receiver)
    receiver.act = lambda _id, _number: status
    office.tell(uuid4())
    office.courier().deliver()
    assert office.deliveries()[0].last_error == f"http_{status}"
    assert len(receiver.got) == 1


def test_a_receiver_that_is_away_is_no_more_than_a_failure(office: Office) -> None:
    with running_receiver() as gone:
        subscribed(office, gone)
    office.tell(uuid4())
    office.courier().deliver()
    assert office.deliveries()[0].last_error == "connection_failed"


def test_no_connection_to_the_database_is_held_while_a_message_is_on_its_way(
    office: Office, receiver: Receiver
) -> None:
    subscribed(office, receiver)
    served = office.world.registry.served
    held: list[int] = []
    receiver.arrived = lambda: held.append(served.engine.pool.checkedout())  # type: ignore[attr-defined]
    office.tell(uuid4())
    office.courier().deliver()
    assert held == [0]


def test_what_happens_before_and_while_a_subscription_is_disabled_waits(office: Office, receiver: Receiver) -> None:
    made, world = subscribed(office, receiver), office.world
    before = uuid4()
    office.tell(before)
    change = {"disabled": True, "reason": "receiver is serviced"}
    tag = world.admin.patch(made["path"], change, made["tag"]).headers["ETag"]
    serious = {"criteria": {"hospitalisation": True}, "aware_at": "2025-02-03T10:00:00Z"}
    event = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), **serious)).json()
    office.courier().look_for_overdue()
    assert office.courier().deliver() == 0
    world.admin.patch(made["path"], {**change, "disabled": False}, tag)
    office.courier().deliver()
    told = sorted((body["type"], body["subject"]) for body in (json.loads(got.body) for got in receiver.got))
    assert told == [
        ("adverse_event.overdue", event["id"]),
        ("adverse_event.serious", event["id"]),
        ("extract.ready", str(before)),
    ]


def test_a_secret_that_cannot_be_opened_sends_nothing_unsigned(office: Office, receiver: Receiver) -> None:
    one, other = subscribed(office, receiver), subscribed(office, receiver, event_types=["safety_signal.raised"])
    with office.world.registry.database.write() as session:
        from app.models.notification import Subscription

        sealed = session.get_one(Subscription, UUID(one["id"])).sealed
        session.get_one(Subscription, UUID(other["id"])).sealed = sealed  # bound to the other subscription
    office.tell(uuid4(), EventType.safety_signal_raised)
    office.courier().deliver()
    assert office.deliveries()[0].last_error == "secret_unreadable"
    assert receiver.got == []


def test_two_hundred_messages_all_arrive_and_come_twice_only_where_something_failed(
    office: Office, receiver: Receiver
) -> None:
    """By two workers on PostgreSQL, by one on SQLite."""
    world = office.world
    with running_receiver() as other:
        receivers = (receiver, other)
        for each in receivers:
            subscribed(office, each)
        failed: set[str] = set()

        def act(delivery: str, number: int) -> Any:
            if UUID(delivery).int % 7 or number > 1:
                return 204
            failed.add(delivery)
            return "cut" if UUID(delivery).int % 2 else 500

        receiver.act = other.act = act
        for _ in range(100):
            office.tell(uuid4())
        workers = 1 if world.on_sqlite else 2
        deliver_all(office, workers)
        office.clock.ahead += LONG
        deliver_all(office, workers)
        rows = office.deliveries()
        assert len(rows) == 200
        assert {row.state for row in rows} == {"delivered"}
        arrived = Counter([one for each in receivers for one in each.ids])
        assert arrived.keys() == {str(row.id) for row in rows}
        assert {delivery for delivery, times in arrived.items() if times > 1} == failed
        assert set(arrived.values()) == {1, 2}
        assert [len(set(each.ids)) for each in receivers] == [100, 100]


def deliver_all(office: Office, workers: int) -> None:
    """Every worker with an engine of its own, until nothing is due."""
    tried: list[int] = []
    ready = threading.Barrier(workers)

    def work() -> None:
        with Database(office.settings, for_server=True) as database:
            courier = office.courier(database)
            ready.wait(10)
            while sent := courier.deliver():
                tried.append(sent)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(tried) <= BATCH


def test_a_late_failure_does_not_undo_what_another_worker_did(world: World, receiver: Receiver) -> None:
    office = Office(world)
    subscribed(office, receiver)
    office.tell(uuid4())
    slow, quick = office.courier(), office.courier()
    claimed = slow._claimed()
    assert quick.deliver() == 0
    office.clock.ahead += LEASE + timedelta(seconds=1)
    assert quick.deliver() == 1
    slow._keep(claimed, ["timeout"])
    (row,) = office.deliveries()
    assert (row.state, row.attempts, row.last_error) == ("delivered", 2, None)


def environment(office: Office) -> dict[str, str]:
    settings = office.settings
    return {
        "PYTHONPATH": str(ROOT),
        "PATH": "",
        "REGISTRY_ENVIRONMENT": "demo",
        "REGISTRY_DATABASE_URL": settings.database_url,
        "REGISTRY_KEY_FILE": str(settings.key_file),
        "REGISTRY_WEBHOOK_PRIVATE_NETWORKS": LOOPBACK,
    }


def worker(office: Office, *arguments: str) -> Forked:
    return Forked(("deliver", *arguments), environment(office), Path(os.devnull), ROOT)


def test_the_messages_of_a_killed_worker_come_back(office: Office, receiver: Receiver) -> None:
    subscribed(office, receiver)
    arrived = threading.Event()
    receiver.arrived, receiver.act = arrived.set, lambda _id, number: "hang" if number == 1 else 200
    office.tell(uuid4())
    process = worker(office)
    assert arrived.wait(30)
    process.kill()
    process.wait(10)
    assert office.courier().deliver() == 0  # the dead worker's claim still stands
    office.clock.ahead += LEASE + timedelta(seconds=1)
    assert office.courier().deliver() == 1
    assert office.deliveries()[0].state == "delivered"
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1


def test_a_worker_that_is_stopped_ends_the_batch_that_it_began(office: Office, receiver: Receiver) -> None:
    subscribed(office, receiver)
    arrived = threading.Event()
    receiver.arrived = arrived.set
    office.tell(uuid4())
    process = worker(office, "--every", "0.1")
    assert arrived.wait(30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert office.deliveries()[0].state == "delivered"


def test_the_command_sends_what_is_due_once(office: Office, receiver: Receiver) -> None:
    subscribed(office, receiver)
    for _ in range(BATCH + 1):
        office.tell(uuid4())
    assert worker(office, "--once").wait(30) == 0
    assert len(set(receiver.ids)) == BATCH + 1


def test_the_workers_log_names_the_delivery_and_neither_address_nor_subject(office: Office, receiver: Receiver) -> None:
    subscribed(office, receiver)
    receiver.act = lambda _id, _number: 500
    subject = uuid4()
    office.tell(subject)
    command = registry_command("deliver", "--once")
    done = subprocess.run(command, env=environment(office), cwd=ROOT, capture_output=True, text=True, check=True)
    output = done.stdout + done.stderr
    line = json.loads(output)
    assert (line["event"], line["kind"], line["delivery"]) == ("delivery_failed", "http_500", receiver.ids[0])
    assert not any(word in output for word in (receiver.url, "127.0.0.1", str(subject), office.world.study))


def test_a_worker_outlives_a_database_that_is_away() -> None:
    stopped, told = threading.Event(), []

    class Away:
        def look_for_overdue(self) -> int:
            told.append("looked")
            raise OperationalError("away", None, Exception())

        def deliver(self) -> int:
            told.append("delivered")
            if told.count("delivered") == 3:
                stopped.set()
            raise OperationalError("away", None, Exception())

    run(Away(), stopped, 0.001)  # type: ignore[arg-type]
    assert told == ["looked", "delivered"] * 3
