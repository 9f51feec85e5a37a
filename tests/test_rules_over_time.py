"""What the pass asks about that no single write can see: what is missing, and what lies on another day."""

from typing import Any

from tests.dosing_cases import held
from tests.test_rule_queries import amended, queries, refresh_site
from tests.world import World


def missing(world: World, pid: str, visit_code: str) -> list[str]:
    items = world.monitor.get(f"/v1/participants/{pid}/schedule").json()["items"]
    [codes] = [item["missing_instruments"] for item in items if item["visit_code"] == visit_code]
    return list(codes)


def asked(world: World, pid: str, rule: str) -> list[tuple[str, str]]:
    """State and text of what a rule asks about somebody."""
    refresh_site(world)
    return [(query["state"], query["text"]) for query in queries(world, participant=pid, rule=rule)]


def test_a_form_without_an_answer_is_missing_until_it_has_one(world: World) -> None:
    pid = world.enrolled()
    empty: dict[str, Any] = {"instrument": "CSSRS_SLV", "items": {}}
    visit = held(world.staff_a, pid, "PREP1", "2025-02-11", outcomes=[empty])
    assert missing(world, pid, "PREP1") == ["CSSRS_SLV"]
    [(state, text)] = asked(world, pid, "instrument_missing")
    assert (state, "CSSRS_SLV" in text) == ("open", True)
    amended(world, f"/v1/outcomes/{visit['outcomes'][0]['id']}", items={"CSSRS_SLV_01": 0})
    assert missing(world, pid, "PREP1") == []
    assert asked(world, pid, "instrument_missing") == [("closed", text)]
