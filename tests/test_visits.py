"""Visits, as site staff and monitors meet them."""

from tests.world import World, madrs


def test_a_visit_is_stored_with_its_outcomes_and_the_servers_scores(world: World) -> None:
    pid = world.enrolled()
    answer = world.staff_a.post("/v1/visits", world.visit(pid, outcomes=[madrs(3)]))
    assert answer.status_code == 201
    visit = answer.json()
    assert visit["outcomes"][0]["scores"][0] | {"rule": ""} == {
        "name": "total",
        "value": 30,
        "band": "moderate",
        "reason": None,
        "rule": "",
    }
    again = world.staff_a.get(answer.headers["Location"])
    assert again.status_code == 200
    assert again.json() == visit
    assert again.headers["ETag"] == answer.headers["ETag"]


def test_site_staff_cannot_see_another_sites_visit(world: World) -> None:
    answer = world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
    assert world.staff_b.get(answer.headers["Location"]).status_code == 404
