"""The ledger: what a recipient has received already, and who received the data of a participant."""

import json

import pytest

from tests.route_cases import an_extract
from tests.test_deidentified import approved, asked, files, people, table
from tests.world import World


def renamed(world: World) -> None:
    """The analyst's organisation goes by another name from now on."""
    path = f"/v1/users/{world.analyst.get('/v1/me').json()['id']}"
    change = {"organisation": "University of Test", "reason": "renamed"}
    assert world.admin.patch(path, change, world.admin.get(path).headers["ETag"]).status_code == 200


def test_an_account_under_another_organisation_is_still_compared_with_what_it_received(world: World) -> None:
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


def test_a_custodian_is_told_which_extracts_a_difference_would_reveal_people_with(world: World) -> None:
    """Of two earlier ones the first has twelve people fewer, the second one."""
    people(world, 13)
    held = asked(world)
    assert approved(world, held).status_code == 201
    people(world, 12)
    again = asked(world)
    assert approved(world, again).status_code == 201
    world.enrolled()
    refused = approved(world, asked(world))
    assert (refused.json()["code"], refused.json()["extracts"]) == ("differencing_risk", [again])
    assert world.custodian.get(again).status_code == 200


def test_a_custodian_sees_by_name_who_asked_and_decided_and_whether_files_were_downloaded(world: World) -> None:
    path = an_extract(world, approved=True)
    names = [one.get("/v1/me").json()["display_name"] for one in (world.analyst, world.custodian)]
    read = world.custodian.get(path).json()
    assert [read["requested_by_name"], read["decided_by_name"], read["downloaded_at"]] == [*names, None]
    assert world.analyst.raw("HEAD", f"{path}/files/visits.csv", b"").status_code == 200
    assert world.custodian.get(path).json()["downloaded_at"] is None, "nothing was sent"
    assert world.analyst.get(f"{path}/files/visits.csv").status_code == 200
    first = world.custodian.get(path).json()["downloaded_at"]
    assert first is not None
    assert world.analyst.get(f"{path}/files/visits.csv").status_code == 200
    assert world.custodian.post(f"{path}/revocation", {"reason": "shared with others"}).status_code == 201
    listed = {one["id"]: one for one in world.custodian.get("/v1/extracts", status="revoked").json()["items"]}
    assert listed[read["id"]]["downloaded_at"] == first


@pytest.mark.parametrize("profile", ["aggregate", "deidentified"])
def test_an_accepted_difference_is_in_the_manifest_and_the_trail(world: World, profile: str) -> None:
    people(world, 14)
    verdicts = []
    for _ in range(2):
        path = asked(world, profile=profile)
        assert approved(world, path, accept_difference=True).status_code == 201
        verdicts.append(json.loads(world.analyst.get(f"{path}/files/manifest.json").text)["ledger"]["verdict"])
        world.enrolled()
    assert verdicts == ["ok", "accepted with a reason"]
    of_it = {"subject_id": path.rpartition("/")[2], "action": "extract:approved"}
    rows = world.admin.get("/v1/audit-entries", **of_it).json()["items"]
    (fixed,) = (json.loads(row["new"]) for row in rows if row["field"] == "manifest")
    assert fixed["ledger"] == {"earlier_extracts": 1, "needed_difference": 12, "verdict": "accepted with a reason"}


def test_the_risk_page_for_the_custodian_says_what_the_risk_report_says(world: World) -> None:
    people(world, 13)
    first = files(world)
    world.enrolled()
    again = files(world, accept_difference=True)
    for got, held in ((first, "0. It has to differ"), (again, "1. It has to differ")):
        report, page = json.loads(got["risk_report.json"]), got["risk_report.md"]
        before, after, ledger = report["exact"], report["released"], report["ledger"]
        assert f"The mean risk is {after['avg_risk']} (before: {before['avg_risk']})." in page
        assert "`serious` is not shown." in page
        assert f"it was compared with: {held}" in page
        assert f"by {ledger['needed_difference']} people or more: {ledger['verdict']}." in page
