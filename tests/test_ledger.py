"""The ledger: what a recipient holds already, and who received whom."""

from tests.route_cases import an_extract
from tests.test_deidentified import approved, asked, files, people, table
from tests.world import World


def renamed(world: World) -> None:
    """The analyst's organisation goes by another name from now on."""
    path = f"/v1/users/{world.analyst.get('/v1/me').json()['id']}"
    change = {"organisation": "University of Test", "reason": "renamed"}
    assert world.admin.patch(path, change, world.admin.get(path).headers["ETag"]).status_code == 200


def test_an_account_under_another_organisation_is_still_held_against_what_it_received(world: World) -> None:
    people(world, 13)
    files(world)
    renamed(world)
    world.enrolled()
    refused = approved(world, asked(world))
    assert (refused.status_code, refused.json()["code"]) == (409, "differencing_risk")


def test_a_project_keeps_its_subject_ids_when_its_organisation_is_renamed(world: World) -> None:
    ids = []
    for _ in range(2):
        path = an_extract(world, approved=True)
        ids.append({row["subject"] for row in table(world.analyst.get(f"{path}/files/participants.csv").text)})
        renamed(world)
    assert ids[0] < ids[1], "somebody was enrolled in between"
