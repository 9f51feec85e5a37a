"""The `deidentified` profile over HTTP: classes of twelve, no days, and what two extracts tell of one person."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from httpx2 import Response

from app import audit
from app.models.extract import Extract, ExtractStatus
from app.privacy.lattice import K
from app.services.extracts import extract_csv, extract_ends, release
from tests.bundle_checker import Opened
from tests.world import World, madrs, protocol_definition

Row = dict[str, str]
CLASS = ("age_group", "sex", "race", "country", "status")


def people(world: World, count: int, site: str = "A", **changes: Any) -> list[str]:
    return world.uploaded("participants", [world.enrolment(site, **changes) for _ in range(count)], site)


def asked(world: World, **more: str) -> str:
    answer = world.analyst.post("/v1/extracts", {"study": world.study, "purpose": "A question", **more})
    assert answer.status_code == 202, answer.text
    path: str = answer.headers["Location"]
    return path


def approved(world: World, path: str, **more: Any) -> Response:
    return world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use", **more})


def files(world: World, **more: Any) -> dict[str, str]:
    path = asked(world)
    answer = approved(world, path, **more)
    assert answer.status_code == 201, answer.text
    bundle = Opened(world.analyst.get(f"{path}/files/bundle.zip").content)
    return {name: content.decode() for name, content in bundle.files.items()}


def table(text: str) -> list[Row]:
    return list(csv.DictReader(io.StringIO(text)))


def classes(text: str) -> Counter[tuple[str, ...]]:
    return Counter(tuple(row[name] for name in CLASS) for row in table(text))


def test_eleven_people_get_no_extract(world: World) -> None:
    people(world, K - 1)
    path = asked(world)
    refused = approved(world, path)
    assert (refused.status_code, refused.json()["code"]) == (422, "cohort_too_small")
    assert world.analyst.get(path).json()["status"] == "requested"


def test_everybody_in_the_files_looks_like_eleven_others(world: World) -> None:
    for number in range(30):
        world.enrolled(age_at_consent=20 + number, sex="FM"[number % 2], race="ASIAN" if number == 7 else "WHITE")
    got = files(world)
    sizes = classes(got["participants.csv"])
    assert min(sizes.values()) >= K
    assert sizes.total() >= 30 * 0.95
    report = json.loads(got["risk_report.json"])
    assert report["released"]["k_min"] == min(sizes.values())
    assert report["released"]["max_risk"] == round(1 / min(sizes.values()), 4) <= 0.09
    assert str(report["released"]["k_min"]) in got["risk_report.md"]
    levels = json.loads(got["manifest.json"])["levels"]
    assert set(levels) == set(CLASS)
    assert "ASIAN" not in got["participants.csv"]


def test_people_who_are_left_out_are_in_no_file(world: World) -> None:
    people(world, 40, age_at_consent=40, sex="F")
    alone = world.enrolled(age_at_consent=40, sex="M")
    world.staff_a.post("/v1/visits", world.visit(alone, outcomes=[madrs(2)]))
    world.staff_a.post("/v1/adverse-events", world.event(alone))
    got = files(world)
    assert (len(table(got["participants.csv"])), {row["sex"] for row in table(got["participants.csv"])}) == (40, {"F"})
    assert [table(got[f"{name}.csv"]) for name in ("visits", "outcomes", "adverse_events")] == [[], [], []]


def test_visits_show_whether_they_were_in_their_window_but_no_day(world: World) -> None:
    pid = people(world, K)[0]
    days = [("BL", "2025-01-25", {}), ("DOS1", "2025-02-01", {}), ("INT1A", "2025-02-02", {})]
    late = {"deviation_reason": "Illness"}
    for code, day, why in [*days, ("INT1B", "2025-03-20", late), ("UNS", "2025-03-21", {})]:
        answer = world.staff_a.post("/v1/visits", world.visit(pid, code, day, **why))
        assert answer.status_code == 201, answer.text
    got = files(world)
    timing = {row["visit_code"]: row["timing"] for row in table(got["visits.csv"])}
    assert (timing["INT1A"], timing["INT1B"], timing["UNS"]) == ("in_window", "late", "")
    assert "2025" not in "".join(text for name, text in got.items() if name.endswith(".csv"))
    assert not any("day" in name for text in got.values() if text.startswith("subject") for name in text.split("\n")[0])


def test_onsets_are_classes_of_days_since_the_last_dose(world: World) -> None:
    pid = people(world, K)[0]
    for code, day in (("BL", "2025-01-25"), ("DOS1", "2025-02-01")):
        assert world.staff_a.post("/v1/visits", world.visit(pid, code, day)).status_code == 201
    onsets = (
        "2025-01-31",
        "2025-02-01",
        "2025-02-02",
        "2025-02-08",
        "2025-02-09",
        "2025-03-01",
        "2025-03-02",
        "2025-02",
    )
    for onset in onsets:
        assert world.staff_a.post("/v1/adverse-events", world.event(pid, onset=onset)).status_code == 201
    shown = Counter(row["onset"] for row in table(files(world)["adverse_events.csv"]))
    assert shown == Counter(["BEFORE", "D0", "D1", "D2-7", "D8-28", "D8-28", "GT28", ""])


GRAVE = {"criteria": {"hospitalisation": True}, "aware_at": "2025-02-04T09:00:00Z"}


def report_events(world: World, pids: list[str], **changes: Any) -> None:
    world.uploaded("adverse-events", [world.event(pid, **changes) for pid in pids])


def test_that_all_had_a_serious_event_looks_as_if_none_had(world: World) -> None:
    pids, told = people(world, K), []
    report_events(world, pids)
    for those in ([], pids[1:], pids[:1]):
        report_events(world, those, **GRAVE)
        got = files(world)
        shown = {row["serious"] for row in table(got["adverse_events.csv"])}
        told.append((shown, json.loads(got["risk_report.json"])["sensitive"]))
    none, some, everybody = told
    assert some == ({"Y", "N"}, [{"name": "serious", "released": True}])
    assert everybody == none == ({""}, [{"name": "serious", "released": False}])


def test_no_class_discloses_who_had_a_serious_event(world: World) -> None:
    """Not by an empty cell either: a class that would tell is coarsened away."""
    women, men = (people(world, K, sex=sex, age_at_consent=33) for sex in "FM")
    report_events(world, [*women, men[0]], **GRAVE)
    report_events(world, men[1:])
    got = files(world)
    assert json.loads(got["manifest.json"])["levels"]["sex"] == 1
    assert Counter(row["serious"] for row in table(got["adverse_events.csv"])) == {"Y": K + 1, "N": K - 1}
    assert set(classes(got["participants.csv"]).values()) == {2 * K}


def test_an_organisation_cannot_read_one_newcomer_from_two_extracts(world: World) -> None:
    people(world, K)
    files(world)
    world.enrolled()
    path = asked(world)
    refused = approved(world, path)
    assert (refused.status_code, refused.json()["code"]) == (409, "differencing_risk")
    accepted = approved(world, path, accept_difference=True)
    assert accepted.status_code == 201
    report = json.loads(world.analyst.get(f"{path}/files/risk_report.json").text)
    assert report["ledger"] == {"earlier_extracts": 1, "needed_difference": K, "verdict": "accepted with a reason"}


def test_an_organisation_is_the_same_however_its_name_was_spelled(world: World) -> None:
    people(world, K)
    first = asked(world)
    assert approved(world, first).status_code == 201
    world.enrolled()
    path = asked(world)
    for spelled in ("TEST", " Test", "Te\u200bst", "Test.", "\uff34est"):
        with world.registry.database.write() as session:
            session.get_one(Extract, UUID(first.rpartition("/")[2])).organisation = spelled
        refused = approved(world, path)
        assert (refused.status_code, refused.json()["code"]) == (409, "differencing_risk"), ascii(spelled)


def test_revoked_and_expired_extracts_still_count_as_received(world: World) -> None:
    people(world, K)
    first = asked(world)
    assert approved(world, first).status_code == 201
    assert world.custodian.post(f"{first}/revocation", {"reason": "misuse"}).status_code == 201
    world.enrolled()
    refused = approved(world, asked(world))
    assert (refused.status_code, refused.json()["code"]) == (409, "differencing_risk")


def test_an_extract_whose_second_build_failed_still_counts_as_received(world: World) -> None:
    people(world, K)
    first = asked(world)
    assert approved(world, first).status_code == 201
    assert world.analyst.get(f"{first}/files/participants.csv").status_code == 200
    with world.registry.database.write() as session:
        row = session.get_one(Extract, UUID(first.rpartition("/")[2]))
        extract_ends.end(session, row, ExtractStatus.failed, audit.SYSTEM)
    assert world.analyst.get(first).json()["manifest"] is not None  # what was cited stays to be read
    world.enrolled()
    refused = approved(world, asked(world))
    assert (refused.status_code, refused.json()["code"]) == (409, "differencing_risk")


def test_the_same_people_or_twelve_more_are_fine(world: World) -> None:
    people(world, K)
    first, again = (table(files(world)["participants.csv"]) for _ in range(2))
    assert {row["subject"] for row in first}.isdisjoint({row["subject"] for row in again})
    people(world, K)
    assert len(table(files(world)["participants.csv"])) == 2 * K


def test_levels_never_become_finer_for_an_organisation(world: World) -> None:
    people(world, 6, sex="M", age_at_consent=30)
    people(world, 6, sex="F", age_at_consent=60)
    assert json.loads(files(world)["manifest.json"])["levels"]["sex"] == 1
    people(world, 30, sex="M", age_at_consent=30)
    people(world, 30, sex="F", age_at_consent=60)
    got = files(world)
    assert json.loads(got["manifest.json"])["levels"]["sex"] == 1
    assert {row["sex"] for row in table(got["participants.csv"])} == {""}


def test_pseudonymised_data_go_out_under_an_agreement_only(world: World) -> None:
    body = {"study": world.study, "purpose": "A question", "profile": "pseudonymised"}
    assert world.analyst.post("/v1/extracts", body).status_code == 422
    assert world.analyst.post("/v1/extracts", {**body, "agreement": "DUA-7"}).status_code == 202
    assert world.analyst.post("/v1/extracts", {**body, "profile": "deidentified", "agreement": "D"}).status_code == 422


def test_a_small_site_is_pooled_with_a_larger_one_and_old_ages_too_even_under_an_agreement(world: World) -> None:
    people(world, K, age_at_consent=41)
    assert world.staff_b.post("/v1/participants", world.enrolment("B", age_at_consent=93)).status_code == 201
    agreed = {"profile": "pseudonymised", "agreement": "DUA-7"}
    path = world.analyst.post("/v1/extracts", {"study": world.study, "purpose": "A question", **agreed}).headers[
        "Location"
    ]
    assert approved(world, path).status_code == 201
    rows = table(world.analyst.get(f"{path}/files/participants.csv").text)
    assert Counter((row["site"], row["age_group"]) for row in rows) == {("POOL", "41"): K, ("POOL", "GE90"): 1}


def test_a_project_can_join_its_extracts_and_no_other_can(world: World) -> None:
    people(world, K)
    people(world, 1, site="B")
    first = under(world, "DUA-7")
    people(world, 2)
    people(world, K, site="B")
    second, other = under(world, "DUA-7"), under(world, "DUA-8")
    assert first.items() <= second.items(), "the small site stays in the pool, which would show otherwise"
    assert len(second) == len(other) == 2 * K + 3
    assert set(second).isdisjoint(other)
    assert set(second.values()) == {"POOL"}
    assert all(re.fullmatch(r"SITE[1-9][0-9]{3}", site) for site in other.values())
    assert sorted(Counter(other.values()).values()) == [K + 1, K + 2]


def test_a_small_site_that_joins_a_project_alone_is_not_revealed(world: World) -> None:
    """The codes of the others are known, so none is left to pool it with: no site is shown until it is large."""
    people(world, K)
    first = under(world, "DUA-7")
    people(world, 1, site="B")
    assert set(under(world, "DUA-7").values()) == {""}
    people(world, K - 1, site="B")
    third = under(world, "DUA-7")
    assert first.items() <= third.items()
    assert sorted(Counter(third.values()).values()) == [K, K]


def of_three_arms(world: World) -> str:
    """A protocol version."""
    arms = [{"code": code, "label": code} for code in ("A1", "A2", "A3")]
    plan = {**protocol_definition(), "version": "7", "arms": arms}
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", plan).status_code == 201
    return "7"


def test_one_rare_arm_is_not_revealed_by_the_list_of_arms(world: World) -> None:
    version = of_three_arms(world)
    for arm, many in (("A1", K + 1), ("A2", K), ("A3", 1)):
        people(world, many, planned_arm=arm, protocol_version=version)
    shown = Counter(row["planned_arm"] for row in table(files(world)["participants.csv"]))
    assert shown == {"A1": K + 1, "OTHER": K + 1}


def test_a_rare_actual_arm_is_not_revealed_by_the_planned_arm(world: World) -> None:
    version = of_three_arms(world)
    for arm, many, treated in (("A1", K + 1, K + 1), ("A2", K, K), ("A3", K, 3)):
        people(world, treated, planned_arm=arm, actual_arm=arm, protocol_version=version)
        people(world, many - treated, planned_arm=arm, protocol_version=version)
    rows = table(files(world)["participants.csv"])
    shown = Counter((row["planned_arm"], row["actual_arm"]) for row in rows)
    assert shown == {("A1", "A1"): K + 1, ("OTHER", "OTHER"): K + 3, ("OTHER", ""): K - 3}


def under(world: World, agreement: str) -> dict[str, str]:
    """The subjects of a pseudonymised extract with their sites."""
    body = {"study": world.study, "purpose": "A question", "profile": "pseudonymised", "agreement": agreement}
    path = world.analyst.post("/v1/extracts", body).headers["Location"]
    assert approved(world, path).status_code == 201
    rows = table(world.analyst.get(f"{path}/files/participants.csv").text)
    return {row["subject"]: row["site"] for row in rows}


def test_a_custodian_sees_the_risk_report_before_deciding(world: World) -> None:
    people(world, K)
    path = asked(world)
    decision = {"decision": "approve", "reason": "agreed use"}
    told = world.custodian.post(f"{path}/approval?dry_run=true", decision)
    assert (told.status_code, told.json()["dry_run"]) == (200, True)
    risk = told.json()["answer"]["risk"]
    assert risk["ledger"]["verdict"] == "ok"
    assert world.analyst.get(path).json()["status"] == "requested"
    assert approved(world, path).json()["risk"] == risk == world.analyst.get(path).json()["risk"]
    people(world, 1)
    again = asked(world)
    refused = world.custodian.post(f"{again}/approval?dry_run=true", decision)
    assert refused.json()["code"] == "differencing_risk"


def test_all_files_are_of_one_moment_whatever_is_written_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A visit that arrives while the files are built is in all of them or in none."""
    pid, threads = people(world, K)[0], []
    visit = world.visit(pid, "UNS", "2025-02-01", outcomes=[madrs(2)])
    written = extract_csv.parts

    def interrupted(*asked: Any) -> Iterator[bytes]:
        yield from written(*asked)
        if not threads:
            threads.append(Thread(target=world.staff_a.post, args=("/v1/visits", visit)))
            threads[0].start()
            threads[0].join()

    monkeypatch.setattr(extract_csv, "parts", interrupted)
    got = files(world)
    assert world.monitor.get("/v1/visits", participant=pid).json()["items"] != []
    assert (table(got["visits.csv"]), table(got["outcomes.csv"])) == ([], [])


def test_of_two_approvals_at_once_the_second_sees_the_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    people(world, K)
    first, second = asked(world), asked(world)
    chosen, answers = release.choose_people, []

    def interrupted(session: Any, row: Any, *rest: Any) -> release.Cohort:
        cohort = chosen(session, row, *rest)
        if str(row.id) == first.rpartition("/")[2]:
            thread.start()
            thread.join(1)  # PostgreSQL refuses it at once; on SQLite it waits for the one writer
        return cohort

    def enrol_and_approve() -> None:
        world.enrolled()
        answers.append(approved(world, second))

    thread = Thread(target=enrol_and_approve)
    monkeypatch.setattr(release, "choose_people", interrupted)
    assert approved(world, first).status_code == 201
    thread.join()
    at_once = (409, "differencing_risk") if world.on_sqlite else (503, "approval_under_way")
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [at_once]
    assert approved(world, second).json()["code"] == "differencing_risk"
