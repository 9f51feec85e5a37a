"""Reserved pids: an app without a network prints a label, and the label never names two persons."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from sqlmodel import col, select

from app.models.audit import AuditEntry
from app.models.participant import Participant
from app.pid import complete, display
from tests.course_cases import WITHDRAWAL
from tests.hostile import census, grown
from tests.test_sync import act, sync
from tests.world import Caller, World, label

PATH = "/v1/pid-reservations"
UNKNOWN = display(complete("0000000000"))
"""A good pid that nobody has reserved."""


def block(world: World, site: str = "A", count: int = 3, **more: Any) -> dict[str, Any]:
    staff = world.staff_a if site == "A" else world.staff_b
    answer = staff.post(PATH, {"study": world.study, "site": site, "count": count, **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def enrol(caller: Caller, body: dict[str, Any], key: str | None = None) -> tuple[int, str]:
    answer = caller.post("/v1/participants", body, key)
    return answer.status_code, answer.json().get("code") or answer.json()["pid"]


def test_a_block_is_drawn_once_and_everybody_gets_other_pids(world: World) -> None:
    key, asked = str(uuid4()), {"study": world.study, "site": "A", "count": 500, "device": "tablet-3"}
    first = world.staff_a.post(PATH, asked, key)
    again = world.staff_a.post(PATH, asked, key)
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (first.json(), "true")
    others = block(world)["pids"] + block(world, "B")["pids"]
    assert len({*first.json()["pids"], *others}) == 506
    assert world.staff_a.get(first.headers["Location"]).json() == first.json()


@pytest.mark.parametrize("count", [0, 501, "3", 2.5])
def test_a_block_has_one_to_five_hundred(world: World, count: Any) -> None:
    refused = world.staff_a.post(PATH, {"study": world.study, "site": "A", "count": count})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/count")


def test_a_reserved_pid_is_given_to_one_person_only(world: World) -> None:
    pid, *_ = block(world)["pids"]
    body, key = world.enrolment(pid=pid.lower().replace("-", " ")), str(uuid4())
    assert enrol(world.staff_a, body, key) == (201, pid)
    assert enrol(world.staff_a, {**body, "pid": pid}, key) == (201, pid), "the same act, spelt otherwise"
    assert enrol(world.staff_a, world.enrolment(pid=pid)) == (409, "pid_already_enrolled")
    assert enrol(world.staff_a, {**body, "pid": None}) == (409, "label_already_enrolled")
    found = world.staff_a.post(
        "/v1/participants/lookup", {"study": world.study, "site": "A", "site_local_id": body["site_local_id"]}
    )
    assert found.json()["pid"] == pid


def test_a_pid_that_was_not_reserved_here_is_refused_alike_wherever_it_is_from(world: World) -> None:
    elsewhere, unused = block(world, "B")["pids"][0], block(world, "B")["pids"][1]
    assert enrol(world.staff_b, world.enrolment("B", pid=elsewhere)) == (201, elsewhere)
    answers = [
        world.staff_a.post("/v1/participants", world.enrolment(pid=one)).json() for one in (elsewhere, unused, UNKNOWN)
    ]
    assert {answer["code"] for answer in answers} == {"pid_not_reserved"}
    assert len({str({**answer, "request_id": ""}) for answer in answers}) == 1
    assert enrol(world.staff_a, world.enrolment(pid=world.enrolled())) == (409, "pid_already_enrolled")
    mistyped = world.staff_a.post("/v1/participants", world.enrolment(pid="7K3F-9TQ2-XMED")).json()
    assert mistyped["errors"][0] == {**mistyped["errors"][0], "pointer": "/pid", "code": "pid_checksum"}


def test_a_label_that_is_enrolled_leaves_the_reserved_pid_free(world: World) -> None:
    pid, theirs = block(world)["pids"][0], label()
    world.enrolled(site_local_id=theirs)
    before = census(world.registry.database.engine)
    assert enrol(world.staff_a, world.enrolment(pid=pid, site_local_id=theirs)) == (409, "label_already_enrolled")
    assert grown(before, census(world.registry.database.engine)) == {"audit_entry": 1}  # who tried the label
    assert enrol(world.staff_a, world.enrolment(pid=pid)) == (201, pid)


def test_of_many_at_once_one_gets_the_pid(world: World) -> None:
    pid, staff = block(world)["pids"][0], world.staff_a
    bodies = [world.enrolment(pid=pid) for _ in range(8)]
    with ThreadPoolExecutor(8) as crowd:
        told = sorted(crowd.map(lambda body: enrol(staff, body), bodies))
    assert told == [(201, pid), *[(409, "pid_already_enrolled")] * 7]
    with world.registry.database.read() as session:
        assert len(session.exec(select(Participant).where(Participant.pid == pid.replace("-", ""))).all()) == 1


def test_a_new_pid_is_never_one_that_is_reserved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign, enrolled = block(world, "B")["pids"][0], world.enrolled("B")
    offered = [*(one.replace("-", "") for one in (foreign, enrolled)), complete("ZZZZZ" + uuid4().hex[:5].upper())]
    monkeypatch.setattr("app.pid.draw", lambda: offered.pop(0))
    last = display(offered[-1])
    assert enrol(world.staff_a, world.enrolment()) == (201, last)


def test_a_tablet_that_was_set_up_anew_finds_its_block(world: World) -> None:
    mine, other = block(world, device="tablet-3"), block(world, device="tablet-4")
    used, *free = mine["pids"]
    world.enrolled(pid=used)
    (listed,) = world.staff_a.get(PATH, device="tablet-3", open="true").json()["items"]
    assert (listed["id"], listed["drawn"], listed["pids"]) == (mine["id"], 3, sorted(free))
    assert {one["id"] for one in world.staff_a.get(PATH, study=world.study).json()["items"]} == {
        mine["id"],
        other["id"],
    }
    assert world.staff_b.get(PATH).json()["items"] == []
    assert world.staff_b.get(f"{PATH}/{mine['id']}").status_code == 404


def test_a_closed_block_is_offered_no_more_and_its_labels_stay_good(world: World) -> None:
    made = block(world, device="tablet-3")
    closing = {"reason": "left in a taxi"}
    closed = world.staff_a.post(f"{PATH}/{made['id']}/closure", closing)
    assert (closed.status_code, closed.json()["pids"]) == (201, sorted(made["pids"]))
    assert world.staff_a.post(f"{PATH}/{made['id']}/closure", closing).json()["code"] == "reservation_closed"
    assert world.staff_b.post(f"{PATH}/{made['id']}/closure", closing).status_code == 404
    assert world.staff_a.get(PATH, open="true").json()["items"] == []
    assert enrol(world.staff_a, world.enrolment(pid=made["pids"][0])) == (201, made["pids"][0])


def test_a_site_has_only_so_many_free_pids_reserved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    state = world.registry.app.state._state
    monkeypatch.setitem(state, "settings", state["settings"].model_copy(update={"reserved_pids_per_site": 5}))
    first, asked = block(world), {"study": world.study, "site": "A", "count": 3}
    before = census(world.registry.database.engine)
    assert world.staff_a.post(PATH, asked).json()["code"] == "too_many_pids_reserved"
    assert grown(before, census(world.registry.database.engine)) == {}
    block(world, "B")
    world.enrolled(pid=first["pids"][0])
    block(world)
    world.staff_a.post(f"{PATH}/{first['id']}/closure", {"reason": "tablet sent back"})
    block(world, count=2)


def test_what_was_drawn_is_in_the_trail_of_the_site(world: World) -> None:
    made = block(world, count=2, device="tablet-3")
    with world.registry.database.read() as session:
        entry = session.exec(select(AuditEntry).where(col(AuditEntry.subject_id) == made["id"])).one()
    assert (entry.site_id, entry.action) == (world.site_ids["A"], "pids:reserved")
    assert all(pid.replace("-", "") in entry.changes for pid in made["pids"])


def test_acts_name_an_offline_person_by_the_reserved_pid_in_any_order(world: World) -> None:
    pid = block(world)["pids"][0]
    visit, event = act("/v1/visits", world.visit(pid)), act("/v1/adverse-events", world.event(pid.lower()))
    consent = act(f"/v1/participants/{pid}/withdrawals", WITHDRAWAL)
    told = sync(world.staff_a, visit, event, consent)
    assert {(one["result"], *one["waits_for_pids"]) for one in told.values()} == {("blocked", pid)}
    person = act("/v1/participants", world.enrolment(pid=pid))
    told = sync(world.staff_a, person)
    assert {one["result"] for one in told.values()} == {"created"}, told
    assert told.keys() == {one["id"] for one in (person, visit, event, consent)}
    (stored,) = world.staff_a.get("/v1/visits", participant=pid).json()["items"]
    assert stored["occurred_on"] == "2025-01-25"


def test_a_foreign_reservation_is_like_none_in_sync_too(world: World) -> None:
    pid = block(world, "B")["pids"][0]
    for one in (pid, UNKNOWN):
        visit = act("/v1/visits", world.visit(one))
        told = sync(world.staff_a, visit)[visit["id"]]
        assert (told["result"], told["problem"]["code"]) == ("invalid", "not_found")
