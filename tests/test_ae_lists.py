"""Lists of adverse events in every order, as CSV, and how an event lies to the doses."""

import csv
import io
import itertools
import json

import pytest

from tests.dosing_cases import a_session, at
from tests.world import World


def report(world: World, pid: str, onset: str | None, **changes: object) -> str:
    answer = world.staff_a.post("/v1/adverse-events", world.event(pid, onset=onset, **changes))
    assert answer.status_code == 201, answer.text
    name: str = answer.json()["id"]
    return name


def ids(world: World, **query: str) -> list[str]:
    """All pages of a list, two events at a time."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = world.monitor.get("/v1/adverse-events", study=world.study, limit="2", **query, **cursor).json()
        found += [item["id"] for item in page["items"]]
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


@pytest.fixture
def events(world: World) -> dict[str, str]:
    """Five events, in the order of their reports."""
    pid = world.enrolled()
    serious = {"criteria": {"hospitalisation": True}}
    return {
        "old": report(world, pid, "2025-02-03"),
        "partial": report(world, pid, "2025-03", **serious, aware_at="2025-03-09T09:00:00Z"),
        "unknown": report(world, pid, None),
        "new": report(world, pid, "2025-04-01", **serious, aware_at="2025-03-08T09:00:00Z", term='=1+1 "x"'),
        "middle": report(world, pid, "2025-03-15"),
    }


def test_events_are_listed_in_the_order_asked_for_page_by_page(world: World, events: dict[str, str]) -> None:
    def named(*names: str) -> list[str]:
        return [events[name] for name in names]

    assert ids(world) == named("middle", "new", "unknown", "partial", "old")
    assert ids(world, sort="onset") == named("new", "partial", "middle", "old", "unknown")
    assert ids(world, sort="due") == named("new", "partial")
    seen = world.staff_a.get(f"/v1/adverse-events/{events['old']}").headers["ETag"]
    body = {"severity": "severe", "reason": "typed wrongly"}
    assert world.staff_a.patch(f"/v1/adverse-events/{events['old']}", body, seen).is_success
    assert ids(world, sort="updated") == named("old", "middle", "new", "unknown", "partial")


def test_an_event_that_was_reported_on_is_the_last_updated(world: World, events: dict[str, str]) -> None:
    before = world.monitor.get(f"/v1/adverse-events/{events['new']}")
    late = {"kind": "initial", "late_reason": "in this test"}
    sent = world.staff_a.post(f"/v1/adverse-events/{events['new']}/reports", late)
    assert sent.status_code == 201, sent.text
    after = world.monitor.get(f"/v1/adverse-events/{events['new']}")
    assert after.json()["updated_at"] == after.json()["reported_at"] == sent.json()["submitted_at"]
    assert (after.json()["version"], after.headers["ETag"]) == (1, before.headers["ETag"])
    assert ids(world, sort="updated")[0] == events["new"]


def test_a_cursor_of_one_order_is_worth_nothing_in_another(world: World, events: dict[str, str]) -> None:
    page = world.monitor.get("/v1/adverse-events", study=world.study, limit="2", sort="onset").json()
    answer = world.monitor.get("/v1/adverse-events", study=world.study, limit="2", cursor=page["next"])
    assert (answer.status_code, answer.json()["code"]) == (400, "cursor_invalid")


@pytest.mark.parametrize("sort", ["due", "onset", "reported", "updated"])
def test_the_csv_holds_what_the_pages_hold_in_the_same_order(
    world: World, events: dict[str, str], sort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.csv_lines.BLOCK", 2)
    answer = world.monitor.get("/v1/adverse-events", study=world.study, sort=sort, format="csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == ids(world, sort=sort)
    assert all(not cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    new = next(row for row in rows if row["id"] == events["new"])
    assert (json.loads(new["term"]), new["severity"]) == ('=1+1 "x"', "mild")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"serious": "true"}, "partial new"),
        ({"serious": "false", "severity": "mild"}, "old unknown middle"),
        ({"term": '=1+1 "X"'}, "new"),
        ({"onset_from": "2025-03-31"}, "partial new"),
        ({"onset_to": "2025-03-01"}, "partial old"),
        ({"updated_since": "2099-01-01T00:00:00Z"}, ""),
        ({"outcome": "fatal"}, ""),
        ({"overdue": "true"}, "partial new"),
        ({"overdue": "false"}, "old unknown middle"),
        ({"unreviewed": "false"}, "middle"),
        ({"unreviewed": "true", "serious": "false"}, "old unknown"),
        ({"possible_duplicate": "true"}, ""),
    ],
    ids=str,
)
def test_pages_and_csv_are_narrowed_alike(
    world: World, events: dict[str, str], asked: dict[str, str], expected: str
) -> None:
    assert world.monitor.post(
        f"/v1/adverse-events/{events['middle']}/reviews", {"kind": "acknowledged", "version": 1}
    ).is_success
    sheet = world.monitor.get("/v1/adverse-events", study=world.study, format="csv", **asked).text
    found = ids(world, **asked)
    assert [row["id"] for row in csv.DictReader(io.StringIO(sheet))] == found
    assert set(found) == {events[name] for name in expected.split()}


@pytest.mark.parametrize("path", ["/v1/adverse-events", "/v1/audit-entries"])
def test_a_sheet_comes_whole_so_it_has_no_pages(world: World, path: str) -> None:
    answer = world.monitor.get(path, study=world.study, format="csv", limit="1", cursor="garbage")
    assert answer.status_code == 422
    assert {error["pointer"] for error in answer.json()["errors"]} == {"/query/limit", "/query/cursor"}
    assert "garbage" not in answer.text


def test_the_csv_holds_only_rows_of_granted_sites(world: World, events: dict[str, str]) -> None:
    world.staff_b.post("/v1/adverse-events", world.event(world.enrolled("B")))
    for caller, expected in ((world.monitor_a, {"A"}), (world.staff_b, {"B"}), (world.monitor, {"A", "B"})):
        answer = caller.get("/v1/adverse-events", study=world.study, format="csv")
        assert {row["site"] for row in csv.DictReader(io.StringIO(answer.text))} == expected


def test_an_event_shows_how_it_lies_to_the_doses(world: World) -> None:
    pid = world.enrolled()
    for code, day in (("BL", "2025-01-25"), ("DOS1", "2025-02-22")):
        visit = world.visit(pid, code, day, deviation_reason="in this test")
        assert world.staff_a.post("/v1/visits", visit).status_code == 201

    def lies(onset: str | None) -> tuple[bool | None, int | None]:
        read = world.monitor.get(f"/v1/adverse-events/{report(world, pid, onset)}").json()
        return read["treatment_emergent"], read["days_since_last_dose"]

    assert lies("2025-02-21") == (False, None)
    assert lies("2025-02-22") == (True, 0)
    assert lies("2025-03-01") == (True, 7)
    assert lies("2025-02") == (True, None)
    assert lies("2025-01") == (False, None)
    assert lies(None) == (True, None)


def test_the_csv_shows_for_each_event_its_days_from_the_doses(world: World) -> None:
    pid, undosed = world.enrolled(), world.enrolled()
    for code, day in (("BL", "2025-01-25"), ("DOS1", "2025-02-22")):
        visit = world.visit(pid, code, day, deviation_reason="in this test")
        assert world.staff_a.post("/v1/visits", visit).status_code == 201
    told = {
        report(world, pid, "2025-02-21"): ("false", ""),
        report(world, pid, "2025-03-01"): ("true", "7"),
        report(world, undosed, "2025-03-01"): ("", ""),
    }
    sheet = world.monitor.get("/v1/adverse-events", study=world.study, format="csv").text
    rows = list(csv.DictReader(io.StringIO(sheet)))
    assert {row["id"]: (row["treatment_emergent"].lower(), row["days_since_last_dose"]) for row in rows} == told


def test_a_list_tells_on_request_what_single_events_tell_of_the_doses(world: World) -> None:
    dosed, undosed, elsewhere = world.enrolled(), world.enrolled(), world.enrolled("B")
    for code, day in (("BL", "2025-01-25"), ("DOS1", "2025-02-22")):
        visit = world.visit(dosed, code, day, deviation_reason="in this test")
        assert world.staff_a.post("/v1/visits", visit).status_code == 201
    assert world.staff_b.post("/v1/adverse-events", world.event(elsewhere)).status_code == 201
    for pid, onset in ((dosed, "2025-02-21"), (dosed, "2025-03-01"), (dosed, None), (undosed, "2025-03-01")):
        report(world, pid, onset, criteria={"hospitalisation": True}, aware_at="2025-03-02T10:00:00Z")
    for caller, sort in itertools.product((world.monitor, world.monitor_a), ("due", "onset", "reported", "updated")):
        asked = {"study": world.study, "sort": sort, "include": "exposure", "limit": "3"}
        first = caller.get("/v1/adverse-events", **asked).json()
        items = first["items"] + caller.get("/v1/adverse-events", **asked, cursor=first["next"]).json()["items"]
        plain = caller.get("/v1/adverse-events", study=world.study, sort=sort).json()["items"]
        assert [item["id"] for item in items] == [item["id"] for item in plain]
        assert items == [caller.get(f"/v1/adverse-events/{item['id']}").json() for item in items]
        assert {item["treatment_emergent"] for item in items} == {True, False, None}
        assert not {"treatment_emergent", "days_since_last_dose"} & plain[0].keys()


def test_without_a_dose_nothing_is_said_about_it(world: World) -> None:
    read = world.monitor.get(f"/v1/adverse-events/{report(world, world.enrolled(), '2025-02-03')}").json()
    assert (read["treatment_emergent"], read["days_since_last_dose"]) == (None, None)


def test_a_participant_whose_dose_was_not_given_is_not_exposed(world: World) -> None:
    session = a_session(world)
    pid, path = session.json()["participant"], session.headers["Location"]
    event = report(world, pid, "2025-03-04")

    def told() -> tuple[int, bool | None, int | None]:
        counted = world.monitor.get("/v1/adverse-events/summary", study=world.study).json()["participants"]
        read = world.monitor.get(f"/v1/adverse-events/{event}").json()
        return counted, read["treatment_emergent"], read["days_since_last_dose"]

    assert told() == (1, True, 1)  # the visit alone tells nothing else
    not_given = {"kind": "initial", "planned_mg": 80, "deviation_reason": "panic before the dose"}
    entered = world.staff_a.post(f"{path}/doses", not_given)
    assert told() == (0, None, None)
    [dose] = entered.json()["doses"]
    given = {"given_mg": 80, "given_at": at("12:00"), "deviation_reason": None, "reason": "was given later"}
    assert world.staff_a.patch(f"{path}/doses/{dose['id']}", given, entered.headers["ETag"]).status_code == 200
    assert told() == (1, True, 1)


def test_the_summary_counts_by_population_and_place(world: World) -> None:
    dosed, not_dosed = world.enrolled(), world.enrolled("B")
    for code, day in (("BL", "2025-01-25"), ("DOS1", "2025-02-22")):
        visit = world.visit(dosed, code, day, deviation_reason="in this test")
        assert world.staff_a.post("/v1/visits", visit).status_code == 201
    coding = {"system": "MedDRA", "term": "Headache", "level": "pt"}
    report(world, dosed, "2025-03-01", codings=[coding])
    report(world, dosed, "2025-02-01")
    world.staff_b.post("/v1/adverse-events", world.event(not_dosed))

    def summary(caller: object = world.monitor, **query: str) -> list[tuple[dict[str, str], int, int, int]]:
        read = caller.get("/v1/adverse-events/summary", study=world.study, **query).json()  # type: ignore[attr-defined]
        return [(row["group"], row["participants"], row["denominator"], row["events"]) for row in read["items"]]

    assert summary() == [({}, 1, 1, 2)]
    assert summary(emergent="true") == [({}, 1, 1, 1)]
    assert summary(population="all") == [({}, 2, 2, 3)]
    assert summary(world.monitor_a, population="all") == [({}, 1, 1, 2)]
    assert summary(by="pt,site") == [
        ({"pt": "Headache", "site": "A"}, 1, 1, 1),
        ({"pt": "UNCODED", "site": "A"}, 1, 1, 1),
    ]


def test_a_participant_who_left_while_screened_is_not_among_the_enrolled(world: World) -> None:
    world.enrolled()
    screened = world.enrolled(enrolled_on=None)
    left = {"status": "withdrawn", "effective_on": "2025-02-01", "reason": "moved away"}
    assert world.staff_a.post(f"/v1/participants/{screened}/status", left).status_code == 201

    def counted(population: str) -> int:
        query = {"study": world.study, "population": population}
        number: int = world.monitor.get("/v1/adverse-events/summary", **query).json()["participants"]
        return number

    assert (counted("enrolled"), counted("all")) == (1, 2)


@pytest.mark.parametrize("query", ["by=soc,soc", "by=term", "by=,", "population=dosed", "emergent=yes", "offset=1"])
def test_a_summary_that_means_nothing_is_refused(world: World, query: str) -> None:
    answer = world.monitor.raw("GET", f"/v1/adverse-events/summary?study={world.study}&{query}", b"")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("/query/")


def test_a_term_is_found_whatever_the_case_of_its_letters(world: World) -> None:
    pid = world.enrolled()
    told = {report(world, pid, "2025-03", term=term) for term in ("Økt angst", "ØKT ANGST")}
    report(world, pid, "2025-03", term="Angst")
    for term in ("Økt angst", "økt angst", "ØKT ANGST"):
        assert set(ids(world, term=term)) == told
    assert set(ids(world, possible_duplicate="true")) == told


def test_spaces_that_nobody_sees_hide_no_event(world: World) -> None:
    pid = world.enrolled()
    sent = ("Sore throat", "Sore throat ", "\tSore\u00a0throat", "Sore  throat\n")
    coded = [[{"system": "own", "term": term, "level": "pt"}] for term in sent]
    told = {report(world, pid, "2025-03", codings=codings) for codings in coded}
    for term in ("sore throat", " sore throat ", "sore  throat"):
        assert set(ids(world, term=term)) == told
    assert set(ids(world, possible_duplicate="true")) == told
    (row,) = world.monitor.get("/v1/adverse-events/summary", study=world.study, by="pt", population="enrolled").json()[
        "items"
    ]
    assert (row["group"], row["events"]) == ({"pt": "Sore throat"}, 4)


def test_events_with_the_same_term_and_onset_are_listed_as_possible_duplicates(world: World) -> None:
    pid, other = world.enrolled(), world.enrolled()
    twins = {report(world, pid, onset, term=term) for onset, term in (("2025-03", "Nausea"), ("2025-03", "NAUSEA"))}
    unknown = {report(world, pid, None) for _ in range(2)}
    coded = {"codings": [{"system": "MedDRA", "term": "Headache", "level": "pt"}]}
    half_coded = {report(world, pid, "2025-04", term="Bad headache", **more) for more in ({}, coded)}
    half_coded.add(report(world, pid, "2025-04", term="headache"))
    single = {report(world, pid, "2025-03-04", term="Nausea"), report(world, other, "2025-03", term="Nausea")}
    assert set(ids(world, possible_duplicate="true")) == twins | unknown | half_coded
    assert set(ids(world, possible_duplicate="false")) == single
