"""The `aggregate` profile: declared tables whose small cells are hidden and whose other figures are rounded."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from itertools import product
from statistics import mean, stdev
from unittest.mock import patch
from uuid import UUID

import pytest
from httpx2 import Response
from hypothesis import given
from hypothesis import strategies as st

from app import audit
from app.models.base import canonical_json, now, utc_text
from app.models.extract import Extract, ExtractStatus
from app.privacy import hiding, tables
from app.privacy.hiding import ALL
from app.privacy.lattice import K
from app.privacy.tables import NOT_GIVEN, Cell, Declared
from app.services.extracts import extract_ends
from tests.conftest import BuildsAtOnce
from tests.courses import withdraw
from tests.world import World, madrs, protocol_definition

Row = dict[str, str]
TABLE = Declared("t", "row", "column")


def counts(table: Declared, people: Iterable[tuple[str, str]]) -> list[Cell]:
    """Each figure for itself."""
    return list(tables.counted(table, people).primary_suppression())


@pytest.mark.parametrize(
    ("count", "shown"), [(0, 0), (1, None), (10, None), (12, None), (13, 15), (17, 15), (18, 20), (1002, 1000)]
)
def test_small_counts_are_hidden_and_others_rounded_to_five(count: int, shown: int | None) -> None:
    assert hiding.rounded(count) == shown


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), max_size=200))
def test_every_cell_and_margin_is_rounded_by_itself(people: list[tuple[str, str]]) -> None:
    cells = {(cell.row, cell.column): cell for cell in counts(TABLE, people)}
    rows, columns = ({pair[side] for pair in people} for side in (0, 1))
    assert set(cells) == set(product({*rows, ALL}, {*columns, ALL}))
    for (row, column), cell in cells.items():
        true = sum(row in (one, ALL) and column in (other, ALL) for one, other in people)
        assert (cell.value, cell.suppressed) == (hiding.rounded(true), 0 < true <= hiding.FEW)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=300))
def test_means_and_deviations_need_thirteen_people_and_do_not_disclose_one_persons_score(values: list[int]) -> None:
    cells = {cell.statistic: cell for cell in tables.scores("BL", "MADRS", 60, Counter(values))}
    if len(values) <= hiding.FEW:
        assert [cells[name].value for name in ("mean", "sd")] == [None, None]
        return
    to, spread = tables.step(60, len(values)), tables.spread_step(60, len(values))
    assert to * len(values) >= 60
    assert spread**2 * len(values) >= 60**2
    assert cells["mean"].value == pytest.approx(mean(values), abs=to / 2 + 0.001)
    assert (cells["sd"].value or 0) == pytest.approx(stdev(values), abs=spread / 2 + 0.001)
    assert cells["sd"].suppressed == (cells["sd"].value is None)


@pytest.mark.parametrize(
    ("people", "to"), [(13, 5), (32, 5), (33, 2), (62, 2), (63, 1), (302, 0.5), (303, 0.2), (2000, 0.1)]
)
def test_the_step_of_a_rounded_mean_depends_on_the_published_count_only(people: int, to: float) -> None:
    assert tables.step(60, people) == to


def test_the_score_of_a_person_added_between_two_publications_cannot_be_worked_out() -> None:
    """Thirteen people with 30 each, then somebody with 60: the sums of what is published differ by neither."""
    before, after = (
        {cell.statistic: cell.value for cell in tables.scores("BL", "MADRS", 60, people)}
        for people in (Counter({30: 13}), Counter({30: 13, 60: 1}))
    )
    assert (before, after) == ({"people": 15, "mean": 30, "sd": None}, {"people": 15, "mean": 30, "sd": None})


@pytest.mark.parametrize(
    ("people", "shown"),
    [
        ({("yes", "x"): 20, ("yes", "y"): 15, ("no", "y"): 15}, {("yes", ALL), ("no", ALL), (ALL, ALL)}),
        ({("no", "x"): 20, ("yes", "y"): 15, ("no", "y"): 15}, {("yes", ALL), ("no", ALL), (ALL, ALL)}),
        ({("yes", "x"): 20, ("yes", "y"): 15}, {(ALL, ALL)}),
        ({("yes", "x"): 12, ("no", "x"): 12}, set(product(("yes", "no", ALL), ("x", ALL)))),
    ],
    ids=["all of an arm", "none of an arm", "all", "some"],
)
def test_a_column_in_which_all_or_none_had_an_event_is_not_shown(
    people: dict[tuple[str, str], int], shown: set[tuple[str, str]]
) -> None:
    """Nor to be worked out: what was hidden of one column would follow from the margins."""
    table = Declared("t", "row", "column", sensitive=True)
    told = [pair for pair, number in people.items() for _ in range(number)]
    assert {(cell.row, cell.column) for cell in counts(table, told)} == shown


def test_a_column_in_which_everybody_had_some_event_is_not_shown() -> None:
    table = Declared("t", "row", "column", sensitive=True)
    told = [("mild", "x")] * 15 + [("severe", "x")] * 15 + [("none", "y")] * 20
    assert {cell.column for cell in counts(table, told)} == {ALL}


def test_tables_of_events_by_arm_leave_out_people_without_an_arm() -> None:
    """Screening failures have none, and no event either, which would tell of them and take the arms from the table."""
    table = Declared("t", "row", "column", sensitive=True)
    told = [(row, arm) for arm, many in (("x", 15), ("y", 25)) for row in ("yes", "no") for _ in range(many)]
    shown = {(cell.row, cell.column): cell.value for cell in counts(table, [*told, *[("no", NOT_GIVEN)] * 20])}
    assert shown.keys() == set(product(("yes", "no", ALL), ("x", "y", ALL)))
    assert (shown["no", ALL], shown[ALL, ALL]) == (40, 80)
    armless = counts(table, [(row, NOT_GIVEN) for row, _ in told])
    assert {cell.column for cell in armless} == {NOT_GIVEN, ALL}


def test_no_hidden_cell_can_be_computed_from_the_cells_beside_it() -> None:
    """Of two arms of twelve, with one serious event each: the shown ones would be 11 or 12, and the hidden one 1."""
    people = [(said, arm) for arm in "xy" for said in ["no"] * 11 + ["yes"]]
    shown = {(cell.row, cell.column): cell.value for cell in counts(TABLE, people)}
    assert [shown[pair] for pair in (("no", "x"), ("yes", "x"), (ALL, "x"))] == [None] * 3


def test_a_count_without_a_mean_is_hidden() -> None:
    assert all(cell.suppressed for cell in tables.scores("BL", "MADRS", 60, Counter({30: 12})))


def asked(world: World) -> str:
    body = {"study": world.study, "purpose": "A public page", "profile": "aggregate"}
    return str(world.analyst.post("/v1/extracts", body).headers["Location"])


def approved(world: World, path: str) -> Response:
    return world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use"})


def published(world: World) -> list[Row]:
    path = asked(world)
    answer = approved(world, path)
    assert answer.status_code == 201, answer.text
    return table_rows(world, path)


def table_rows(world: World, path: str) -> list[Row]:
    return list(csv.DictReader(io.StringIO(world.analyst.get(f"{path}/files/tables.csv").text)))


def figure(rows: list[Row], table: str, row: str, column: str = ALL, statistic: str = "people") -> tuple[str, str]:
    named = {"table": table, "row": row, "column": column, "statistic": statistic}
    (found,) = [one for one in rows if named.items() <= one.items()]
    return found["value"], found["suppressed"]


def test_the_tables_of_a_study(world: World) -> None:
    coding = [{"system": "own", "term": "Head", "level": "soc"}]
    alike = [{"sex": "F" if number < 20 else "M", "age_at_consent": 30 + number % 24} for number in range(26)]
    pids = world.uploaded("participants", [world.enrolment(**one) for one in alike])
    scored = [[], *([madrs(2)] for _ in pids[1:])]
    visits = zip(pids, scored, strict=True)
    world.uploaded("visits", [world.visit(pid, "BL", "2025-01-25", outcomes=given) for pid, given in visits])
    world.uploaded("adverse-events", [world.event(pid, codings=coding) for pid in pids[:20]])
    rows = published(world)
    assert figure(rows, "people_by_sex_and_age", "F") == ("20", "N")
    assert figure(rows, "people_by_sex_and_age", "M") == ("", "Y")
    assert figure(rows, "people_by_sex_and_age", ALL) == ("25", "N")
    assert figure(rows, "people_by_sex_and_age", "F", "LT35") == ("", "Y")
    assert figure(rows, "people_with_events_by_organ_class", "Head") == ("20", "N")
    assert figure(rows, "scores_by_visit", "BL", "MADRS", "mean") == ("20", "N")
    assert figure(rows, "scores_by_visit", "BL", "MADRS", "sd") == ("", "Y")


def test_the_codebook_names_each_table_and_statistic_and_what_is_counted(world: World) -> None:
    world.uploaded("participants", [world.enrolment() for _ in range(K)])
    rows = published(world)
    book = {one["name"]: one for one in world.analyst.get("/v1/codebook", profile="aggregate").json()["columns"]}
    for name in ("table", "statistic"):
        assert {row[name] for row in rows} <= set(book[name]["codes"])
    assert (book["row"]["codes"], book["value"]["unit"]) == ([], "people, or points of the score")


def test_no_code_of_an_arm_can_be_confused_with_the_margin(world: World) -> None:
    arms = [{"code": code, "label": code} for code in ("all", "A2")]
    plan = {**protocol_definition(), "version": "7", "arms": arms}
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", plan).status_code == 201
    planned = ["all"] * 15 + ["A2"] * 25
    world.uploaded("participants", [world.enrolment(planned_arm=arm, protocol_version="7") for arm in planned])
    rows = published(world)
    keys = Counter((row["table"], row["row"], row["column"], row["statistic"]) for row in rows)
    assert set(keys.values()) == {1}
    assert figure(rows, "people_by_status_and_arm", ALL, "all") == ("15", "N")
    assert figure(rows, "people_by_status_and_arm", ALL, ALL) == ("40", "N")


def test_an_organ_class_in_which_few_had_an_event_is_not_named(world: World) -> None:
    people = world.uploaded("participants", [world.enrolment() for _ in range(K)])
    coding = [{"system": "own", "term": "Rare", "level": "soc"}]
    assert world.staff_a.post("/v1/adverse-events", world.event(people[0], codings=coding)).status_code == 201
    assert "Rare" not in json.dumps(published(world))


def test_tables_have_no_row_of_a_person(world: World) -> None:
    world.uploaded("participants", [world.enrolment() for _ in range(K + 1)])
    path = asked(world)
    assert approved(world, path).status_code == 201
    names = {file["name"] for file in world.analyst.get(path).json()["files"]}
    assert {name for name in names if name.endswith((".csv", ".ndjson"))} == {
        "tables.csv",
        "tables.ndjson",
        "codebook.csv",
    }
    manifest = world.analyst.get(f"{path}/files/manifest.json").json()
    assert manifest["subjects"] == 15


def test_two_publications_differ_by_twelve_people_and_ninety_days(world: World) -> None:
    first = world.uploaded("participants", [world.enrolment() for _ in range(K)])
    path = asked(world)
    assert approved(world, path).status_code == 201
    assert Counter(row["table"] for row in published(world))["people_by_race"] > 0
    world.uploaded("participants", [world.enrolment() for _ in first])
    refused = approved(world, asked(world))
    assert (refused.status_code, refused.json()["code"]) == (409, "differencing_risk")
    assert long_ago(world) == 2
    assert approved(world, asked(world)).status_code == 201
    world.enrolled()
    assert approved(world, asked(world)).json()["code"] == "differencing_risk"


def long_ago(world: World) -> int:
    """As if the extracts of the study had been approved so long before that tables of other people may follow. Gives of
    how many the files went."""
    told = world.analyst.get("/v1/extracts", study=world.study).json()["items"]
    with world.registry.database.write() as session:
        for row in [session.get_one(Extract, UUID(one["id"])) for one in told]:
            if row.manifest is not None:
                row.expires_at, fixed = now(), json.loads(row.manifest)
                row.manifest = canonical_json({**fixed, "created_at": utc_text(now() - timedelta(days=91))})
    return extract_ends.expire(world.registry.served)


def test_tables_count_the_people_of_the_rows(world: World) -> None:
    """Who is too recognisable to be in the rows would be what the tables have more."""
    world.uploaded("participants", [world.enrolment(sex="F", age_at_consent=40) for _ in range(24)])
    world.enrolled(sex="M", age_at_consent=80)
    body = {"study": world.study, "purpose": "A paper", "profile": "deidentified"}
    rows = str(world.analyst.post("/v1/extracts", body).headers["Location"])
    assert approved(world, rows).status_code == 201
    tables_of = asked(world)
    assert approved(world, tables_of).status_code == 201
    assert len(world.analyst.get(f"{rows}/files/participants.csv").text.splitlines()) == 25
    assert figure(table_rows(world, tables_of), "people_by_sex_and_age", ALL) == ("25", "N")
    assert "M" not in {one["row"] for one in table_rows(world, tables_of) if one["table"] == "people_by_sex_and_age"}


def men_and_women(world: World, each: int) -> None:
    two = [{"sex": "M", "age_at_consent": 30}, {"sex": "F", "age_at_consent": 60}]
    world.uploaded("participants", [world.enrolment(**one) for _ in range(each) for one in two])


def test_tables_count_the_people_of_the_coarsest_rows_released(world: World) -> None:
    men_and_women(world, 12)
    body = {"study": world.study, "purpose": "A paper", "profile": "deidentified"}
    held = []
    for number in range(2):
        rows = str(world.analyst.post("/v1/extracts", body).headers["Location"])
        assert approved(world, rows).status_code == 201
        held.append(len(world.analyst.get(f"{rows}/files/participants.csv").text.splitlines()) - 1)
        if number == 0:
            men_and_women(world, 16)
            world.enrolled(sex="F", age_at_consent=30)
    assert approved(world, asked(world)).status_code == 201, held


@pytest.mark.parametrize("first", ["aggregate", "deidentified"])
def test_a_withdrawal_of_sharing_is_not_revealed_by_tables_and_rows(world: World, first: str) -> None:
    pids = world.uploaded("participants", [world.enrolment() for _ in range(2 * K)])
    other = {"aggregate": "deidentified", "deidentified": "aggregate"}[first]
    made = []
    for profile in (first, other, other):
        body = {"study": world.study, "purpose": "A paper", "profile": profile}
        made.append(str(world.analyst.post("/v1/extracts", body).headers["Location"]))
    assert approved(world, made[0]).status_code == 201
    assert approved(world, made[1]).status_code == 201
    withdraw(world, pids[0], "sharing", "2025-02-01")
    refused = approved(world, made[2])
    assert (refused.status_code, refused.json()["code"]) == (409, "differencing_risk")
    accepted = {"decision": "approve", "reason": "Judged by the board", "accept_difference": True}
    assert world.custodian.post(f"{made[2]}/approval", accepted).status_code == 201


def test_tables_that_were_never_built_are_compared_with_no_others(world: World) -> None:
    world.uploaded("participants", [world.enrolment() for _ in range(K)])
    first = asked(world)
    with patch.object(BuildsAtOnce, "wake"):
        assert approved(world, first).status_code == 201
    with world.registry.database.write() as session:
        row = session.get_one(Extract, UUID(first.rpartition("/")[2]))
        extract_ends.end(session, row, ExtractStatus.failed, audit.SYSTEM)
    world.enrolled()
    later = asked(world)
    assert approved(world, later).json()["code"] == "differencing_risk"  # it may be tried once more
    assert world.custodian.post(f"{first}/revocation", {"reason": "cannot be built"}).status_code == 201
    assert approved(world, later).status_code == 201


def test_there_are_no_tables_of_eleven_people(world: World) -> None:
    world.uploaded("participants", [world.enrolment() for _ in range(K - 1)])
    assert approved(world, asked(world)).json()["code"] == "cohort_too_small"
