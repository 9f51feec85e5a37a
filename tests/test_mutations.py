"""Damaged cursors, keys, tags, ids, queries, bodies and uploads. The long run is `python -m bench.mutations`."""

from bench.mutations import damage
from tests.world import Registry


def test_no_damaged_request_gets_a_server_error(registry: Registry) -> None:
    report = damage(registry, requests=150, seed=3)
    assert report.faults == []
    assert len(report.statuses) > 5
