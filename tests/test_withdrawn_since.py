"""Consent withdrawn after an extract was approved: custodians are notified, recipients never."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, update

from app.models.account import Role
from app.models.base import now
from app.models.extract import Extract
from app.services.participation import sharing
from tests.builds import built, key, status
from tests.course_cases import under_amendment
from tests.courses import withdraw
from tests.outbox_cases import a_subscription
from tests.route_cases import UNDER_AGREEMENT, extract_of
from tests.test_dosing_corrections import corrected
from tests.test_notifications import told
from tests.test_voided_consents import give, taken_out
from tests.test_voiding import voided
from tests.voided_cases import void
from tests.world import Caller, World

TOLD = "extract.consent_withdrawn"
NOBODY = {"sharing": 0, "collection": 0, "identity": 0}


def since(caller: Caller, path: str) -> Any:
    read = caller.get(path)
    assert read.status_code == 200, read.text
    return read.json()["withdrawn_since"]


def listed(caller: Caller, **asked: Any) -> list[str]:
    return [f"/v1/extracts/{one['id']}" for one in caller.get("/v1/extracts", **asked).json()["items"]]


def test_a_custodian_reads_how_many_people_withdrew_which_consent(world: World) -> None:
    people = [world.enrolled() for _ in range(4)]
    path = extract_of(world, approved=True)
    assert since(world.custodian, path) == NOBODY
    withdraw(world, people[0], "sharing", "2025-02-20")
    withdraw(world, people[1], "sharing", "2025-02-21")
    withdraw(world, people[1], "collection", "2025-02-21")
    withdraw(world, people[2], "identity", "2025-02-21")
    withdraw(world, people[3], "dosing", "2025-02-21")
    withdraw(world, people[3], "contact", "2025-02-21")
    assert since(world.custodian, path) == {"sharing": 2, "collection": 1, "identity": 1}
    assert status(world, path) == "ready"


@pytest.mark.parametrize("scope", ["sharing", "collection", "identity"])
def test_a_recipient_of_an_extract_learns_nothing_of_it(world: World, scope: str) -> None:
    """Nor can it be found by asking: an answer that changed with the withdrawal would reveal it."""
    both = world.caller((Role.analyst, None), (Role.custodian, None))
    asked = both.post("/v1/extracts", {**UNDER_AGREEMENT, "study": world.study})
    pid = world.enrolled()
    own, theirs = asked.headers["Location"], extract_of(world, approved=True)
    agreed = {"decision": "approve", "reason": "agreed use"}
    assert world.custodian.post(f"{own}/approval", agreed).status_code == 201
    readers = [(world.analyst, theirs), (both, own)]

    def answers() -> list[Any]:
        of_all = [(one.get(path).json(), one.get(path).headers["ETag"]) for one, path in readers]
        asked = ({}, {"withdrawn_since": "true"}, {"withdrawn_since": "false"})
        return [*of_all, *(world.analyst.get("/v1/extracts", **more).json() for more in asked)]

    before = answers()
    withdraw(world, pid, scope, "2025-02-20")
    assert answers() == before
    assert [since(one, path) for one, path in readers] == [None, None]
    assert [since(world.custodian, path)[scope] for path in (own, theirs)] == [1, 1]
    assert (listed(both, withdrawn_since="true"), listed(both, withdrawn_since="false")) == ([theirs], [])


def test_a_custodian_lists_the_extracts_with_people_who_withdrew_it(world: World) -> None:
    pid = world.enrolled()
    requested, revoked, ready = (extract_of(world, approved) for approved in (False, True, True))
    withdraw(world, pid, "sharing", "2025-02-20")
    world.enrolled()
    later = extract_of(world, approved=True)
    assert world.custodian.post(f"{revoked}/revocation", {"reason": "no longer needed"}).status_code == 201
    of_study = {"study": world.study}
    assert listed(world.custodian, **of_study, withdrawn_since="true") == [ready, revoked]
    assert listed(world.custodian, **of_study, withdrawn_since="true", status="ready") == [ready]
    assert listed(world.custodian, **of_study, withdrawn_since="false") == [later]
    assert (since(world.custodian, requested), since(world.custodian, revoked)["sharing"]) == (None, 1)


def test_a_withdrawal_that_was_voided_is_none(world: World) -> None:
    pid = world.enrolled()
    path = extract_of(world, approved=True)
    for number, scope in enumerate(("sharing", "collection"), 1):
        withdraw(world, pid, scope, "2025-02-20")
        assert since(world.custodian, path)[scope] == 1
        voided(world, pid, number)
        assert since(world.custodian, path) == NOBODY


def test_what_an_extract_leaves_out_already_is_not_counted(world: World) -> None:
    """A withdrawal of before that it honours, and one of an earlier day that it does not."""
    pid = world.enrolled()
    withdraw(world, pid, "collection", "2025-02-20")
    withdraw(world, pid, "identity", "2025-02-20")
    path = extract_of(world, approved=True)
    assert since(world.custodian, path) == NOBODY
    withdraw(world, pid, "collection", "2025-02-25")
    assert since(world.custodian, path) == NOBODY
    withdraw(world, pid, "collection", "2025-02-10")
    assert since(world.custodian, path) == {**NOBODY, "collection": 1}


def consent_without_sharing(world: World, pid: str) -> None:
    further = {"version": "2", "given_on": "2025-06-01", "scopes": ["main"], "reason": "after the amendment"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", further).status_code == 201


def sharing_unticked(world: World, pid: str) -> None:
    path = f"/v1/participants/{pid}"
    body = {"consent": {"version": "1", "scopes": ["main"]}, "reason": "the box was not ticked"}
    assert world.staff_a.patch(path, body, world.staff_a.get(path).headers["ETag"]).status_code == 200


def consent_voided(world: World, pid: str) -> None:
    path = f"/v1/participants/{pid}"
    seen = world.staff_a.get(path).headers["ETag"]
    assert void(world.staff_a, f"{path}/consents/1/1", seen).status_code == 201


@pytest.mark.parametrize("end", [consent_without_sharing, sharing_unticked, consent_voided])
def test_sharing_ends_with_a_newer_a_corrected_or_a_voided_consent_too(world: World, end: Any) -> None:
    everything = a_subscription(world, event_types=[TOLD])
    pid = under_amendment(world)
    path = extract_of(world, approved=True)
    end(world, pid)
    assert since(world.custodian, path) == {**NOBODY, "sharing": 1}
    assert told(world, everything) == [(TOLD, key(path))]


def test_an_end_of_the_collection_that_a_voided_consent_had_undone_is_reported(world: World) -> None:
    everything = a_subscription(world, event_types=[TOLD])
    pid = under_amendment(world)
    withdraw(world, pid, "collection", "2025-03-10")
    assert give(world, pid, version="2", given_on="2025-06-01").status_code == 201
    path = extract_of(world, approved=True)
    assert (since(world.custodian, path), told(world, everything)) == (NOBODY, [])
    taken_out(world, pid, "2")
    assert since(world.custodian, path) == {**NOBODY, "collection": 1}
    assert told(world, everything) == [(TOLD, key(path))]


def test_consents_of_somebody_who_has_stopped_sharing_are_not_reported_again(world: World) -> None:
    everything = a_subscription(world, event_types=[TOLD])
    pid = under_amendment(world)
    path = extract_of(world, approved=True)
    consent_without_sharing(world, pid)
    moved = {"version": "2", "given_on": "2025-06-02"}
    assert corrected(world, f"/v1/participants/{pid}", consent=moved).status_code == 200
    assert told(world, everything) == [(TOLD, key(path))]


def test_each_withdrawal_is_notified_for_each_extract_that_can_be_downloaded(world: World) -> None:
    """As a message that says which extract, and neither who, at which site nor how many."""
    everything, of_site = a_subscription(world, event_types=[TOLD]), a_subscription(world, site="A", event_types=[TOLD])
    people = [world.enrolled() for _ in range(2)]
    requested, revoked, expired, *ready = (extract_of(world, approved) for approved in (False, *[True] * 4))
    assert world.custodian.post(f"{revoked}/revocation", {"reason": "no longer needed"}).status_code == 201
    with world.registry.database.write() as session:
        over = {"expires_at": now() - timedelta(seconds=1)}
        session.execute(update(Extract).where(col(Extract.id) == key(expired)).values(over))
    newcomer = world.enrolled()
    for number, scope in enumerate(("sharing", "collection", "identity"), 1):
        withdraw(world, people[0], scope, "2025-02-20")
        assert sorted(told(world, everything)) == sorted([(TOLD, key(path)) for path in ready] * number)
    for pid, scope in ((newcomer, "sharing"), (people[1], "dosing"), (people[1], "contact")):
        withdraw(world, pid, scope, "2025-02-20")
    assert (len(told(world, everything)), told(world, of_site)) == (3 * len(ready), [])
    assert since(world.custodian, requested) is None


def test_a_withdrawal_while_files_are_built_is_notified_once(world: World, waiting: str) -> None:
    everything = a_subscription(world, event_types=[TOLD])
    withdraw(world, somebody(world), "sharing", "2025-02-20")
    assert since(world.custodian, waiting) == {**NOBODY, "sharing": 1}
    assert told(world, everything) == [(TOLD, key(waiting))]
    assert built(world)
    assert told(world, everything) == [(TOLD, key(waiting))]


def test_a_withdrawal_beside_the_approval_is_notified_once_the_extract_is_ready(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two transactions at once neither sees the other: the withdrawal finds no approved extract."""
    everything = a_subscription(world, event_types=[TOLD])
    with monkeypatch.context() as patch:
        patch.setattr(sharing, "notify", lambda *_: None)
        withdraw(world, somebody(world), "sharing", "2025-02-20")
    assert told(world, everything) == []
    assert built(world)
    assert told(world, everything) == [(TOLD, key(waiting))]


def somebody(world: World) -> str:
    """The pid of one of those who are enrolled."""
    pid: str = world.staff_a.get("/v1/participants").json()["items"][0]["pid"]
    return pid
