"""Data cuts: an extract of a moment shows just that moment, however much is corrected, added or withdrawn later."""

from threading import Barrier, Thread
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlmodel import col, update

from app.models.extract import Extract
from app.models.outcome import OutcomeScore
from app.models.participant import Participant
from app.models.visit import Visit
from app.services.extracts.building import OTHER, SAME, differing
from tests.bundle_checker import Opened
from tests.course_cases import under_amendment
from tests.courses import given
from tests.route_cases import UNDER_AGREEMENT, a_cut
from tests.test_outcome_totals import taking_history
from tests.world import World, madrs

Row = dict[str, str]
SHARED = ["data_sharing", "main"]
TABLES = ("participants.csv", "visits.csv", "outcomes.csv", "adverse_events.csv")


def cut(world: World) -> str:
    """A new data cut, by its name."""
    body = a_cut(world)
    answer = world.custodian.post("/v1/data-cuts", body)
    assert answer.status_code == 201, answer.text
    return body["name"]


def extract(world: World, **asked: Any) -> str:
    """The path of an approved extract."""
    wish = {**UNDER_AGREEMENT, "study": world.study, **asked}
    path: str = world.analyst.post("/v1/extracts", wish).headers["Location"]
    decided = world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use"})
    assert decided.status_code == 201, decided.text
    assert world.analyst.get(path).json()["status"] == "ready"
    return path


def tables(world: World, path: str) -> dict[str, list[Row]]:
    """Every table, without the subject ids, which are of the one extract."""
    bundle = Opened(world.analyst.get(f"{path}/files/bundle.zip").content)
    rows = {name: bundle.table(name.removesuffix(".csv")) for name in TABLES}
    hidden = ("subject", "site")
    return {
        name: sorted(({key: one[key] for key in one if key not in hidden} for one in found), key=str)
        for name, found in rows.items()
    }


def verdict(world: World, path: str) -> str | None:
    with world.registry.served.read() as session:
        row = session.get_one(Extract, UUID(path.rpartition("/")[2]))
    return differing(world.registry.served, row)


def course(world: World) -> dict[str, str]:
    """One person with a record of each kind; the paths of them."""
    pid = world.enrolled(age_at_consent=41)
    visits = [("BL", "2025-01-25"), ("DOS1", "2025-02-01")]
    made = [world.staff_a.post("/v1/visits", world.visit(pid, code, day, outcomes=[])) for code, day in visits]
    visit = made[0].headers["Location"]
    outcome = {"participant": pid, "visit": visit.rpartition("/")[2], **madrs(3)}
    coded = {"codings": [{"system": "own", "term": "Headache", "level": "pt"}]}
    return {
        "participant": f"/v1/participants/{pid}",
        "visit": visit,
        "outcome": world.staff_a.post("/v1/outcomes", outcome).headers["Location"],
        "event": world.staff_a.post("/v1/adverse-events", world.event(pid, **coded)).headers["Location"],
    }


def amend(world: World, path: str, **changes: Any) -> None:
    seen = world.staff_a.get(path).headers["ETag"]
    answer = world.staff_a.patch(path, {"reason": "read again", **changes}, seen)
    assert answer.status_code == 200, answer.text


def everything_changes(world: World, made: dict[str, str]) -> None:
    amend(world, made["participant"], age_at_consent=47, sex="M")
    amend(world, made["visit"], occurred_on="2025-01-27")
    amend(world, made["outcome"], items={"MADRS_01": 6, "MADRS_02": None})
    amend(world, made["event"], severity="severe", onset="2025-02-09")
    pid = made["participant"].rpartition("/")[2]
    status = {"status": "active", "effective_on": "2025-02-01", "reason": "began"}
    assert world.staff_a.post(f"{made['participant']}/status", status).is_success
    late = world.visit(pid, "INT1A", "2025-02-02", outcomes=[madrs(1)])
    assert world.staff_a.post("/v1/visits", late).is_success
    assert world.staff_a.post("/v1/adverse-events", world.event(pid)).is_success
    amend(world, made["visit"], occurred_on="2025-01-28")
    amend(world, made["outcome"], items={"MADRS_02": 1})


def test_an_extract_of_a_cut_shows_that_moment_whatever_came_later(world: World) -> None:
    made = course(world)
    name, then = cut(world), tables(world, extract(world))
    everything_changes(world, made)
    course(world)
    assert tables(world, extract(world, cut=name)) == then
    assert tables(world, extract(world)) != then
    assert then["outcomes.csv"][0]["value"] == "30"


def test_an_extract_is_rebuilt_to_the_same_rows_after_corrections_and_withdrawals(world: World) -> None:
    made = course(world)
    path = extract(world)
    everything_changes(world, made)
    course(world)
    withdrawal = {"scope": "sharing", "effective_on": "2025-03-01", "reason": "changed their mind"}
    assert world.staff_a.post(f"{made['participant']}/withdrawals", withdrawal).is_success
    assert verdict(world, path) == SAME
    taken = world.custodian.post(f"{path}/revocation", {"reason": "no longer needed"})
    assert (taken.status_code, verdict(world, path)) == (201, SAME)


def test_means_are_rebuilt_to_the_same_figures_in_whatever_order_the_scores_come(world: World) -> None:
    """Twelve totals whose sum as floats depends on their order, next to where their mean is rounded up or down."""
    history, made = taking_history(world), []
    for total in (24.4, 4.8, 19.2, 10.6, 13.5, 11.3, 10.8, 17.0, 8.6, 20.4, 23.7, 3.1):
        pid = world.enrolled(**history)
        visit = world.staff_a.post("/v1/visits", world.visit(pid)).json()
        score = {"instrument": "SHEEHAN_SDS", "totals": {"total": total}}
        made.append(world.staff_a.post("/v1/outcomes", {"participant": pid, "visit": visit["id"], **score}))
    path = extract(world, profile="aggregate", agreement=None)
    for outcome in made[::2]:
        amend(world, outcome.headers["Location"], totals={"total": 3.0})
        assert verdict(world, path) == "the same rows"


def test_a_total_of_minus_nothing_is_rebuilt_as_nothing(world: World) -> None:
    pid = world.enrolled(**taking_history(world))
    visit = world.staff_a.post("/v1/visits", world.visit(pid)).json()
    score = {"instrument": "MADRS", "totals": {"total": -0.0}}
    outcome = world.staff_a.post("/v1/outcomes", {"participant": pid, "visit": visit["id"], **score})
    path = extract(world)
    assert [row["value"] for row in tables(world, path)["outcomes.csv"]] == ["0"]
    amend(world, outcome.headers["Location"], totals={"total": 3.0})
    assert verdict(world, path) == "the same rows"


def test_an_outcome_that_was_scored_anew_comes_back_with_its_old_scores(world: World) -> None:
    pid = world.enrolled()
    visit = world.staff_a.post("/v1/visits", world.visit(pid)).json()["id"]
    items = {f"CSSRS_SLV_{number:02d}": 0 for number in range(1, 11)}
    older = {"participant": pid, "visit": visit, "instrument": "CSSRS_SLV", "instrument_version": "1", "items": items}
    outcome = world.staff_a.post("/v1/outcomes", older).headers["Location"]
    name, then = cut(world), tables(world, extract(world))
    assert world.staff_a.post(f"{outcome}/rescoring", {"reason": "newer version"}).is_success
    assert tables(world, extract(world, cut=name)) == then != tables(world, extract(world))


def test_a_withdrawal_of_sharing_counts_for_later_extracts_of_an_earlier_cut(world: World) -> None:
    stays, goes = course(world), course(world)
    name = cut(world)
    withdrawal = {"scope": "sharing", "effective_on": "2025-03-01", "reason": "changed their mind"}
    assert world.staff_a.post(f"{goes['participant']}/withdrawals", withdrawal).is_success
    everything_changes(world, stays)
    people = tables(world, extract(world, cut=name))["participants.csv"]
    assert [row["age_group"] for row in people] == ["41"]


def test_a_participant_whose_withdrawal_was_voided_is_in_later_extracts_only(world: World) -> None:
    course(world)
    back = course(world)
    withdrawal = {"scope": "sharing", "effective_on": "2025-03-01", "reason": "changed their mind"}
    assert world.staff_a.post(f"{back['participant']}/withdrawals", withdrawal).is_success
    name, held = cut(world), extract(world)
    why = {"reason": "it was the neighbour's letter"}
    assert world.staff_a.post(f"{back['participant']}/withdrawals/1/voiding", why).is_success
    assert verdict(world, held) == "the same rows"
    assert [len(tables(world, path)["participants.csv"]) for path in (held, extract(world, cut=name))] == [1, 2]


def test_a_consent_recorded_after_a_cut_brings_nobody_into_it(world: World) -> None:
    under_amendment(world)
    forms = [under_amendment(world, consent={**given("2025-01-02"), "scopes": scopes}) for scopes in (["main"], SHARED)]
    name, people = cut(world), []
    for pid in forms:
        again = {"version": "2", "given_on": "2025-06-01", "scopes": SHARED, "reason": "asked again"}
        assert world.staff_a.post(f"/v1/participants/{pid}/consents", again).is_success
    for asked in ({"cut": name}, {}):
        people.append(len(tables(world, extract(world, **asked))["participants.csv"]))
    assert people == [2, 3]


@pytest.mark.parametrize("changed", ["score", "visit", "formula"])
def test_rows_changed_behind_the_trail_are_found(world: World, changed: str) -> None:
    made = course(world)
    path = extract(world)
    changes = {
        "score": update(OutcomeScore).where(OutcomeScore.name == "total").values(value=7),
        "visit": update(Visit).where(Visit.visit_code == "BL").values(visit_code="UNS"),
        "formula": update(Visit).where(Visit.visit_code == "BL").values(visit_code="=1+1"),
    }
    with world.registry.database.write() as session:
        session.execute(changes[changed].where(changes[changed].table.c.site_id == world.site_ids["A"]))
    assert verdict(world, path) == OTHER
    assert made


def test_a_score_that_no_table_can_hold_is_another_row(world: World) -> None:
    pids = world.uploaded("participants", [world.enrolment() for _ in range(13)])
    world.uploaded("visits", [world.visit(pid, "BL", outcomes=[madrs(3)]) for pid in pids])
    path = extract(world, profile="aggregate", agreement=None)
    assert verdict(world, path) == SAME
    endless = "9e999" if world.on_sqlite else "'Infinity'"
    with world.registry.database.write() as session:
        changed = text(f"UPDATE outcome_score SET value = {endless} WHERE site_id = :site")
        session.execute(changed, {"site": world.site_ids["A"]})
    assert verdict(world, path) == OTHER


@pytest.mark.parametrize("changed", [{"age_at_consent": 77, "sex": "M"}, {"status": "died"}])
def test_people_changed_behind_the_trail_are_found_in_every_profile(world: World, changed: dict[str, Any]) -> None:
    """What an approval stored of them is held against what it would store of them today."""
    people = [world.enrolment(age_at_consent=41, race="WHITE") for _ in range(13)]
    pids = [pid.replace("-", "") for pid in world.uploaded("participants", people)]
    paths = [extract(world), *(extract(world, profile=one, agreement=None) for one in ("deidentified", "aggregate"))]
    assert [verdict(world, path) for path in paths] == [SAME] * 3
    with world.registry.database.write() as session:
        session.execute(update(Participant).where(col(Participant.pid).in_(pids[:3])).values(**changed))
    assert [verdict(world, path) for path in paths] == [OTHER] * 3


def test_a_cut_is_of_one_moment_while_many_write(world: World) -> None:
    """Each writer enrols, then records an event: a cut that has the second has the first."""
    course(world)
    barrier, done = Barrier(5), []

    def write() -> None:
        barrier.wait()
        for _ in range(6):
            pid = world.enrolled()
            assert world.staff_a.post("/v1/adverse-events", world.event(pid)).is_success
        done.append(True)

    threads = [Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    barrier.wait()
    names = []
    while len(done) < len(threads) and len(names) < 4:
        names.append(cut(world))
    for thread in threads:
        thread.join()
    before = 1
    for name in names:
        got = tables(world, extract(world, cut=name))
        people, events = len(got["participants.csv"]), len(got["adverse_events.csv"])
        assert before <= events <= people <= events + len(threads)
        before = events


def test_a_site_that_joined_after_the_cut_is_not_in_it(world: World) -> None:
    course(world)
    name = cut(world)
    site = {"code": "C", "name": "New", "country": "DEU"}
    assert world.admin.post(f"/v1/studies/{world.study}/sites", site).is_success
    world.enrolled("B")
    assert len(tables(world, extract(world, cut=name))["participants.csv"]) == 1


def test_the_name_of_a_cut_is_unique_within_its_study(world: World) -> None:
    name = cut(world)
    again = world.custodian.post("/v1/data-cuts", {**a_cut(world), "name": name})
    assert (again.status_code, again.json()["code"]) == (409, "cut_exists")
    other = World(world.registry)
    asked = other.analyst.post("/v1/extracts", {**UNDER_AGREEMENT, "study": other.study, "cut": name})
    assert (asked.status_code, asked.json()["code"]) == (422, "cut_unknown")
    assert [one["name"] for one in world.analyst.get("/v1/data-cuts").json()["items"]] == [name]
    assert other.analyst.get("/v1/data-cuts").json()["items"] == []
