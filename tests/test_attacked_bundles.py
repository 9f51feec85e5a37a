"""Bundles of made-up cohorts, attacked with nothing but their files."""

import csv
import io
import json
from collections import Counter
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import JSON, cast, func, literal, update
from sqlmodel import col, select

from app.models.account import Role
from app.models.adverse_event import AdverseEvent
from app.models.extract import ExtractSubject
from app.models.participant import Participant
from app.models.visit import Visit
from app.privacy.bundle import UnsafeText, require_no_formula
from app.privacy.profile import cell
from app.services.extracts.extract_csv import _globbed, _matched
from tests.bundle_checker import CLASS, Opened, joins, rank_correlation
from tests.cohorts import VISITS, alike, fill, mixed, skewed, take_back
from tests.world import Caller, World

K = 12
FILES = ("visits", "outcomes", "adverse_events")
COHORTS: dict[str, Any] = {"small": (14, mixed), "skewed": (150, skewed), "alike": (40, alike), "huge": (1_500, mixed)}


def bundle(world: World, analyst: Caller | None = None, **more: Any) -> tuple[UUID, Opened]:
    analyst = analyst or world.analyst
    path = analyst.post("/v1/extracts", {"study": world.study, "purpose": "A question", **more}).headers["Location"]
    answer = world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use"})
    assert answer.status_code == 201, answer.text
    return UUID(path.rpartition("/")[2]), Opened(analyst.get(f"{path}/files/bundle.zip").content)


def subjects(world: World, extract: UUID) -> dict[str, str]:
    """Who is who, which only the registry knows."""
    with world.registry.database.read() as session:
        rows = session.exec(select(ExtractSubject).where(col(ExtractSubject.extract_id) == extract)).all()
    return {row.subject: row.pid for row in rows}


@pytest.mark.parametrize("cohort", COHORTS)
def test_the_files_alone_give_the_risks_of_the_report(world: World, cohort: str) -> None:
    people, kind = COHORTS[cohort]
    take_back(world, fill(world, people, kind, seed=people)[::9], seed=people)
    _, opened = bundle(world)
    sizes = [len(one) for one in opened.classes().values()]
    released, report = sum(sizes), opened.report
    assert opened.k() >= K
    assert released >= 0.95 * people
    assert report["released"]["k_min"] == opened.k()
    assert report["released"]["max_risk"] == pytest.approx(1 / opened.k(), abs=1e-4)
    assert report["released"]["avg_risk"] == pytest.approx(len(sizes) / released, abs=1e-4)
    assert all(serious < people for people, serious in opened.serious_values()), "everybody of a class had one"
    assert len({row["serious"] == "" for row in opened.table("adverse_events")}) == 1, "an empty cell tells"
    assert opened.told_of_nearly_all(["soc", "pt", "special_interest"]) == []
    for name, table, columns in (
        ("score_vectors", "outcomes", ("visit_code", "occurrence", "instrument", "score", "value")),
        ("visit_patterns", "visits", ()),
    ):
        told, found = report["fingerprints"][name]["unique"], opened.unique(table, columns)
        assert told == pytest.approx(found, abs=0.01) if isinstance(told, float | int) else 0 < found * released <= 10


def test_the_risk_report_counts_people_with_a_unique_pattern_of_visits(world: World) -> None:
    """All had the same visits, and all of them took place: one in its window no more."""
    pids = fill(world, 30, alike, seed=9)
    late = (col(Visit.pid) == pids[0], Visit.visit_code == "INT1A")
    with world.registry.database.write() as session:
        (visit,) = session.scalars(select(Visit).where(*late))
        assert visit.occurred_on is not None
        visit.occurred_on += timedelta(days=40)
    _, opened = bundle(world)
    assert opened.unique("visits", ("visit_code", "occurrence", "status")) == 0
    assert opened.unique("visits") == pytest.approx(1 / 30)
    assert opened.report["fingerprints"]["visit_patterns"] == {"people": 30, "unique": "1-10 people"}


def test_the_files_disclose_of_no_class_what_nearly_all_of_it_had(world: World) -> None:
    """All women had one event and most of the men; who had another is by chance."""
    sexes = dict(zip(fill(world, 90, alike, seed=8), "FFM" * 30, strict=True))
    with world.registry.database.write() as session:
        session.execute(update(Participant).where(col(Participant.pid).in_(_of("M", sexes))).values(sex="M"))
    for number, (pid, sex) in enumerate(sexes.items()):
        for term in ["Bruxism"] * (sex == "F" or number % 4 > 0) + ["Tremor"] * (number % 2):
            body = world.event(pid, codings=[{"system": "own", "term": term, "level": each} for each in ("pt", "soc")])
            assert (world.staff_b if number % 2 else world.staff_a).post("/v1/adverse-events", body).status_code == 201
    _, opened = bundle(world)
    assert len(opened.classes()) == 2
    assert opened.told_of_nearly_all(["soc", "pt", "special_interest"]) == []
    assert {"Bruxism", "Tremor"} & {row["soc"] for row in opened.table("adverse_events")} == {"Tremor"}


def _of(sex: str, sexes: dict[str, str]) -> list[str]:
    return [pid for pid, own in sexes.items() if own == sex]


@pytest.mark.parametrize("profile", ["deidentified", "pseudonymised"])
def test_nothing_of_the_day_of_a_withdrawal_of_collection_or_later_is_in_a_bundle(world: World, profile: str) -> None:
    """Counted person by person, from the rows as they are stored."""
    pids = fill(world, 90, alike, seed=4)
    days = take_back(world, pids[:40], seed=4)
    more = {"agreement": "DUA-1"} if profile == "pseudonymised" else {}
    extract, opened = bundle(world, profile=profile, **more)
    pid_of = subjects(world, extract)
    with world.registry.database.read() as session:
        visits = session.execute(select(Visit.pid, Visit.occurred_on).where(col(Visit.pid).in_(pids))).all()
        onsets = session.execute(select(AdverseEvent.pid, AdverseEvent.onset).where(col(AdverseEvent.pid).in_(pids)))
        dated = [("visits", pid, on) for pid, on in visits] + [("outcomes", pid, on) for pid, on in visits]
        dated += [("adverse_events", pid, date.fromisoformat(onset or "")) for pid, onset in onsets]
    wanted = Counter((name, pid) for name, pid, on in dated if on and on < days.get(pid, date.max))
    found = Counter((name, pid_of[row["subject"]]) for name in FILES for row in opened.table(name))
    assert found == Counter({one: number for one, number in wanted.items() if one[1] in pid_of.values()})
    assert len({found["visits", pid] for pid in pid_of.values()}) == len(VISITS) + 1, "some at each point of the course"


def test_nothing_discloses_the_order_of_enrolment(world: World) -> None:
    """Neither the order of the rows nor the ids: five standard deviations of a random order are allowed."""
    enrolled = {pid: place for place, pid in enumerate(fill(world, 400, alike, seed=7))}
    extract, opened = bundle(world)
    pid_of = subjects(world, extract)
    for table in ("participants", "visits", "outcomes", "adverse_events"):
        order = list(dict.fromkeys(row["subject"] for row in opened.table(table)))
        by_row = [float(enrolled[pid_of[subject]]) for subject in order]
        by_id = [float(enrolled[pid_of[subject]]) for subject in sorted(order)]
        for places in (by_row, by_id):
            assert abs(rank_correlation(places)) < 5 / (len(places) - 1) ** 0.5, table
    assert opened.moments == {(1980, 1, 1, 0, 0, 0)}


def test_two_extracts_join_on_no_id_and_no_trait(world: World) -> None:
    """Of the same people: no column of the participants and no combination leads from one to the
    other, nor does the place of a row. What does is in the report: the courses of scores."""
    fill(world, 120, mixed, seed=3)
    (one, first), (two, second) = bundle(world), bundle(world, world.caller((Role.analyst, None)))
    here, there = (opened.table("participants") for opened in (first, second))
    assert joins(here, there, ("subject", *CLASS)) == {}
    same = sum(
        subjects(world, one)[a["subject"]] == subjects(world, two)[b["subject"]]
        for a, b in zip(here, there, strict=True)
    )
    assert same <= 10, "one is expected"
    assert first.unique("outcomes", ("visit_code", "value")) > 0.5
    assert first.report["fingerprints"]["score_vectors"]["unique"] > 0.5
    assert "fingerprint" in first.report["three_tests"]["linkability"]


@pytest.mark.parametrize("profile", ["deidentified", "pseudonymised", "aggregate"])
def test_no_cell_of_a_finished_file_can_be_taken_for_a_formula(world: World, profile: str) -> None:
    """Though the data are full of them: typed races, and terms that somebody stored past the API."""
    fill(world, 30, lambda draw: {**alike(draw), "race": "=HYPERLINK(1)"}, seed=1)
    more = {"agreement": "DUA-1"} if profile == "pseudonymised" else {}
    _, opened = bundle(world, profile=profile, **more)
    for name, content in opened.files.items():
        if name.endswith(".csv") and name != "codebook.csv":
            for row in csv.reader(io.StringIO(content.decode())):
                assert [cell for cell in row if cell[:1] in tuple("=+-@\t\r") and not _number(cell)] == []
    assert json.loads(opened.files["manifest.json"])["profile"] == profile


def test_a_code_that_was_changed_in_the_database_leaves_as_no_formula(world: World) -> None:
    """Nobody types the codes of the large tables; who changes them by hand gets OTHER, or no extract at all."""
    fill(world, K, alike, seed=2)
    with world.registry.database.write() as session:
        session.execute(update(Visit).where(col(Visit.visit_code) == "BL").values(visit_code="=1+1"))
    path = world.analyst.post("/v1/extracts", {"study": world.study, "purpose": "A question"}).headers["Location"]
    assert world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed"}).status_code == 201
    read = world.analyst.get(path).json()
    assert read["status"] in {"failed", "ready"}
    for file in read["files"]:
        assert b"=1+1" not in world.analyst.get(f"{path}/files/{file['name']}").content


def test_both_databases_and_python_let_the_same_text_out(world: World) -> None:
    texts = [chr(point) + "x" for point in range(1, 0x2100)] + [f"x{chr(point)}x" for point in range(1, 0x2100)]
    value = literal(json.dumps(texts))
    if world.on_sqlite:
        told = func.json_each(value).table_valued("value").c.value
        safe = select(told).where(_globbed(told))
    else:
        told = func.json_array_elements_text(cast(value, JSON)).column_valued("value")
        safe = select(told).where(_matched(told))
    with world.registry.database.read() as session:
        assert session.scalars(safe).all() == [text for text in texts if cell(text) == text]


@pytest.mark.parametrize(
    "line", ["=1", "a,=1", "a,-cmd", "a,+1", "-1+1", "a,@x", "a,\tx", '"-a",b', "a,-1+1,b", "a,-1-1", "a\r", "a,\xe4"]
)
def test_a_table_of_codes_holds_codes_and_numbers_only(line: str) -> None:
    require_no_formula(b'9ABC,BL,-27,30.5,-1e-07,"Gut, other",\n')
    with pytest.raises(UnsafeText):
        require_no_formula(f"9ABC,BL\n{line}\n".encode())


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
