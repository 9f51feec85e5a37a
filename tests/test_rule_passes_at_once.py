"""Passes of rules while sites, monitors and other workers write: nothing is lost, doubled or settled by mistake."""

import itertools
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest

from tests.hot_requests import statements
from tests.test_rule_queries import amended, messages, queries, refresh_site, unknown_onset
from tests.world import World


def test_two_workers_passing_at_once_raise_nothing_twice(world: World) -> None:
    pid = world.enrolled()
    world.staff_a.post("/v1/visits", world.visit(pid))
    with ThreadPoolExecutor(4) as pool:
        changed = list(pool.map(lambda _: refresh_site(world, date(2027, 1, 1)), range(4)))
    raised = queries(world, participant=pid)
    assert sum(changed) == len(raised) > 3
    assert all(messages(world, query) == ["opened"] for query in raised[:3])


READS = ("FROM data_query", "FROM adverse_event", "FOR UPDATE")
"""What a pass does with events: reads the queries, reads the records, and holds the queries that it would change."""


def passing(world: World, write: Callable[[], object], before: Collection[str] = READS) -> None:
    """One pass, and a site that writes just before each of these steps."""
    if world.on_sqlite:
        pytest.skip("has one writer at a time")

    def meanwhile(_cursor: Any, text: str, _given: Any) -> None:
        reached = [step for step in before if step in text and step not in seen]
        if reached and not writing:
            seen.update(reached)
            writing.append(text)
            write()
            writing.clear()

    seen: set[str] = set()
    writing: list[str] = []
    with statements(world.registry.served, meanwhile):
        refresh_site(world)


def test_a_pass_leaves_alone_what_is_recorded_meanwhile(world: World) -> None:
    pid = world.enrolled()
    passing(world, lambda: world.staff_a.post("/v1/adverse-events", world.event(pid, onset=None)))
    raised = queries(world, participant=pid, rule="onset_missing")
    assert len({query["subject"] for query in raised}) == len(READS)
    assert [query["state"] for query in raised] == ["open"] * len(READS)


@pytest.mark.parametrize("before", [steps for number in (1, 2, 3) for steps in itertools.combinations(READS, number)])
def test_a_pass_settles_nothing_by_what_is_corrected_meanwhile(world: World, before: tuple[str, ...]) -> None:
    path = unknown_onset(world)

    def correct() -> None:
        known = world.staff_a.get(path).json()["onset"]
        amended(world, path, onset=None if known else "2025-02-03")
        settled.append(queries(world))

    settled = [queries(world)]
    for _ in range(2):
        passing(world, correct, before)
        assert queries(world) == settled[-1]


def test_corrections_answers_and_passes_at_once_do_not_block_each_other(world: World) -> None:
    path = unknown_onset(world)
    of_query = f"/v1/data-queries/{queries(world)[0]['id']}"

    def correct(turn: int) -> int:
        tag = world.staff_a.get(path).headers["ETag"]
        body = {"reason": "read in the source", "onset": "2025-02-03" if turn % 2 else None, "term": f"Pain {turn}"}
        return world.staff_a.patch(path, body, tag).status_code

    def answer(turn: int) -> int:
        return world.staff_a.post(f"{of_query}/answers", {"text": f"Answer {turn}"}).status_code

    def close(turn: int) -> int:
        decision = ("close", "reopen")[turn % 2]
        return world.monitor.post(f"{of_query}/closure", {"decision": decision, "reason": "settled"}).status_code

    with ThreadPoolExecutor(4) as pool:
        acts = [pool.submit(act, turn) for turn in range(12) for act in (correct, answer, close)]
        acts += [pool.submit(refresh_site, world) for _ in range(4)]
        told = [done.result() for done in acts]
    assert set(told[:36]) <= {200, 201, 409, 412}
    refresh_site(world)
    [query] = queries(world)
    assert query["rule_holds"] is (world.staff_a.get(path).json()["onset"] is None)
    assert len(messages(world, query)) == query["version"]
