"""Who takes the collection of data back is in later extracts with what is dated before that day, and nothing else."""

from uuid import uuid4

import pytest

from app.models.treatment import TreatmentTrial
from app.privacy.hiding import ALL as ALL_PEOPLE
from app.privacy.lattice import K
from app.services.extracts.extract_sql import of_subject
from tests.builds import built_again
from tests.course_cases import under_amendment
from tests.courses import held, left, withdraw
from tests.test_aggregate import approved, asked, figure, long_ago, published
from tests.test_data_cuts import cut, extract, tables
from tests.test_deidentified import GRAVE, files, people, report_events, table
from tests.world import World, madrs

DAY = "2025-03-05"


def course(world: World, pid: str) -> None:
    """Records of before the day, of the day itself, of after it, and such as have no day."""
    held(world, pid, "BL", "2025-01-25", outcomes=[madrs(1)])
    held(world, pid, "DOS1", "2025-02-01", outcomes=[{**madrs(2), "collected_on": "2025-03-06"}])
    held(world, pid, "UNS", DAY, outcomes=[{**madrs(3), "collected_on": "2025-03-01"}])
    held(world, pid, "INT1A", "2025-03-06", outcomes=[madrs(4)])
    missed = {"participant": pid, "visit_code": "INT1B", "status": "missed", "deviation_reason": "did not come"}
    assert world.staff_a.post("/v1/visits", missed).status_code == 201
    for severity, onset in (("mild", "2025-03-04"), ("moderate", DAY), ("severe", "2025-03-07"), ("severe", "2025-03")):
        assert world.staff_a.post("/v1/adverse-events", world.event(pid, onset=onset, severity=severity)).is_success
    assert world.staff_a.post("/v1/adverse-events", world.event(pid, onset="2025-02", severity="mild")).is_success
    assert world.staff_a.post("/v1/adverse-events", world.event(pid, onset=None, severity="severe")).is_success


def seen(world: World, path: str) -> dict[str, list[str]]:
    """What tells the records of `course` apart."""
    told = tables(world, path)
    return {
        "visits": [row["visit_code"] for row in told["visits.csv"]],
        "scores": sorted({row["value"] for row in told["outcomes.csv"]}, key=float),
        "events": sorted(row["severity"] for row in told["adverse_events.csv"]),
    }


BEFORE = {"visits": ["BL", "DOS1"], "scores": ["10"], "events": ["mild", "mild"]}
ALL = {
    "visits": ["BL", "DOS1", "INT1A", "INT1B", "UNS"],
    "scores": ["10", "20", "30", "40"],
    "events": ["mild", "mild", "moderate", "severe", "severe", "severe"],
}


def test_an_extract_has_only_records_dated_before_the_withdrawal_of_collection(world: World) -> None:
    course(world, pid := world.enrolled())
    assert seen(world, extract(world)) == ALL
    withdraw(world, pid, "collection", DAY)
    assert seen(world, extract(world)) == BEFORE


def test_no_table_is_in_an_extract_unless_it_is_said_by_which_days() -> None:
    with pytest.raises(KeyError):
        of_subject(uuid4(), TreatmentTrial)


def test_the_others_lose_nothing(world: World) -> None:
    course(world, pid := world.enrolled())
    course(world, world.enrolled())
    withdraw(world, pid, "collection", DAY)
    counts = {name: len(rows) for name, rows in seen(world, extract(world)).items()}
    assert counts == {"visits": 7, "scores": 4, "events": 8}


@pytest.mark.parametrize("scope", ["contact", "dosing"])
def test_other_withdrawals_leave_an_extract_as_it_is(world: World, scope: str) -> None:
    course(world, pid := world.enrolled())
    withdraw(world, pid, scope, DAY)
    assert seen(world, extract(world)) == ALL


def test_the_earliest_of_several_withdrawals_counts(world: World) -> None:
    course(world, pid := world.enrolled())
    for day in ("2025-04-01", DAY, "2025-03-20"):
        withdraw(world, pid, "collection", day)
    assert seen(world, extract(world)) == BEFORE


def test_a_voided_withdrawal_leaves_an_extract_as_it_is(world: World) -> None:
    course(world, pid := world.enrolled())
    withdraw(world, pid, "collection", DAY)
    why = {"reason": "it was the neighbour's letter"}
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals/1/voiding", why).status_code == 201
    assert seen(world, extract(world)) == ALL


def test_what_a_later_consent_gave_anew_is_in_the_extract_again_but_not_by_one_recorded_after_its_cut(
    world: World,
) -> None:
    course(world, pid := under_amendment(world))
    withdraw(world, pid, "collection", DAY)
    name = cut(world)
    again = {"version": "2", "given_on": "2025-06-01", "scopes": ["data_sharing", "main"], "reason": "asked again"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", again).is_success
    assert seen(world, extract(world)) == ALL
    assert seen(world, extract(world, cut=name)) == BEFORE


def test_the_readme_of_a_bundle_says_what_it_has_after_a_withdrawal_and_a_new_consent(world: World) -> None:
    world.enrolled()
    text = " ".join(world.analyst.get(f"{extract(world)}/files/README.txt").text.split())
    assert "who withdrew consent to the collection of their data and gave none anew, it holds what is dated" in text


def test_extracts_are_rebuilt_to_the_same_rows_whatever_is_recorded_or_voided_later(
    world: World,
) -> None:
    course(world, pid := world.enrolled())
    paths = [extract(world)]
    withdraw(world, pid, "collection", DAY)
    paths.append(extract(world))
    withdraw(world, pid, "collection", "2025-02-01")
    for number in (1, 2):
        assert [built_again(world, path) for path in paths] == ["the same rows"] * 2
        why = {"reason": "it was the neighbour's letter"}
        assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals/{number}/voiding", why).status_code == 201
    assert [built_again(world, path) for path in paths] == ["the same rows"] * 2


def test_an_extract_of_an_earlier_cut_respects_a_withdrawal_recorded_since(world: World) -> None:
    course(world, pid := world.enrolled())
    name = cut(world)
    withdraw(world, pid, "collection", DAY)
    assert seen(world, extract(world, cut=name)) == BEFORE


def test_day_one_and_the_enrolment_are_days_like_any_other(world: World) -> None:
    """Day 1 is that of the first dose; without it, of the baseline."""
    pid = world.enrolled()
    held(world, pid, "BL", "2025-01-25")
    held(world, pid, "DOS1", "2025-02-01")
    assert days(world) == ("-12", ["-7", "1"])
    withdraw(world, pid, "collection", "2025-02-01")
    assert days(world) == ("-5", ["1"])
    withdraw(world, pid, "collection", "2025-01-20")
    assert days(world) == ("", [])


def days(world: World) -> tuple[str, list[str]]:
    told = tables(world, extract(world))
    (person,) = told["participants.csv"]
    return person["enrolled_day"], sorted(row["study_day"] for row in told["visits.csv"])


@pytest.mark.parametrize(
    ("status", "on", "shown"), [("completed", "2025-03-04", "completed"), ("completed", DAY, "withdrawn")]
)
def test_a_status_that_is_later_news_is_not_told(world: World, status: str, on: str, shown: str) -> None:
    pid = world.enrolled()
    left(world, pid, status, on)
    withdraw(world, pid, "collection", DAY)
    path = extract(world)
    assert [row["status"] for row in tables(world, path)["participants.csv"]] == [shown]
    left(world, pid, "died", "2025-06-01")
    assert built_again(world, path) == "the same rows"
    assert [row["status"] for row in tables(world, extract(world))["participants.csv"]] == ["withdrawn"]


def test_deidentified_rows_follow_from_what_was_collected(world: World) -> None:
    """As nobody is told of the serious event, all is as if there had been none; no visit is early for a later one."""
    pids = people(world, K + 1)
    report_events(world, pids)
    report_events(world, pids[:1], onset="2025-03-07", **GRAVE)
    held(world, pids[0], "INT1A", "2025-03-01")
    held(world, pids[0], "DOS1", "2025-03-06")
    before = files(world)
    assert {row["serious"] for row in table(before["adverse_events.csv"])} == {"N", "Y"}
    assert timing(before) == {"DOS1": "", "INT1A": "early"}
    withdraw(world, pids[0], "collection", DAY)
    after = files(world)
    assert {row["serious"] for row in table(after["adverse_events.csv"])} == {""}
    assert timing(after) == {"INT1A": ""}


def timing(got: dict[str, str]) -> dict[str, str]:
    return {row["visit_code"]: row["timing"] for row in table(got["visits.csv"])}


def test_tables_lie_apart_if_the_collection_of_somebodys_data_ended_between_them_or_began_again(world: World) -> None:
    pid, *_ = people(world, K)
    published(world)
    withdraw(world, pid, "collection", DAY)
    too_soon(world)
    long_ago(world)
    published(world)
    why = {"reason": "it was the neighbour's letter"}
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals/1/voiding", why).status_code == 201
    too_soon(world)


def too_soon(world: World) -> None:
    refused = approved(world, asked(world))
    assert (refused.status_code, refused.json()["code"]) == (409, "differencing_risk")


def test_tables_count_what_was_collected(world: World) -> None:
    organ = {"codings": [{"system": "own", "term": "Head", "level": "soc"}]}
    pids = people(world, K + 7)[: K + 1]
    for pid in pids:
        held(world, pid, "BL", "2025-01-25", outcomes=[madrs(2)])
    report_events(world, pids, onset="2025-01-25", **organ)
    before = published(world)
    assert figure(before, "scores_by_visit", "BL", "MADRS") == ("15", "N")
    assert figure(before, "people_with_events_by_organ_class", "Head") == ("15", "N")
    left(world, pids[0], "completed", "2025-02-01")
    withdraw(world, pids[0], "collection", "2025-01-25")
    long_ago(world)
    after = published(world)
    assert figure(after, "people_by_sex_and_age", ALL_PEOPLE) == ("20", "N")
    assert figure(after, "scores_by_visit", "BL", "MADRS") == ("", "Y")
    assert rows_of(after, "people_with_events_by_organ_class") == set()
    assert rows_of(after, "people_by_worst_event_and_arm") == {"mild", "none", ALL_PEOPLE}
    assert rows_of(after, "people_by_status_and_arm") == {"enrolled", "withdrawn", ALL_PEOPLE}


def rows_of(figures: list[dict[str, str]], name: str) -> set[str]:
    return {one["row"] for one in figures if one["table"] == name}
