"""Reading the trail: one row for each changed field, who may read it, and refused attempts in it."""

import csv
import io
import json
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import SQLModel

from app.audit import entry_hash
from app.database import Database
from app.errors import DatabaseUnavailable
from app.models.account import Role
from app.models.base import canonical_json, table_of
from app.services.trail import refusals
from app.services.trail.audit_trail import NAMED_BY
from tests import test_bulk
from tests.course_cases import TREATMENT, WITHDRAWAL
from tests.dosing_cases import suicidal
from tests.label_cases import asking
from tests.monitor_cases import a_report, an_event, question_about
from tests.route_cases import a_visit, an_extract, signature_of, with_password
from tests.world import Caller, World, made


def rows(caller: Caller, **asked: Any) -> list[dict[str, Any]]:
    """All rows, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        answer = caller.get("/v1/audit-entries", **asked)
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        if answer.json()["next"] is None:
            return found
        asked["cursor"] = answer.json()["next"]


def csv_rows(caller: Caller, **asked: Any) -> list[dict[str, Any]]:
    answer = caller.get("/v1/audit-entries", format="csv", **asked)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def amended(world: World, reason: str = "Read from the wrong line") -> str:
    """The pid of somebody whose visit was corrected."""
    visit = a_visit(world, "A")
    body = {"occurred_on": "2025-01-27", "reason": reason}
    assert world.staff_a.patch(visit.headers["Location"], body, visit.headers["ETag"]).is_success
    pid: str = visit.json()["participant"]
    return pid


def test_a_corrected_field_is_one_row_with_old_new_who_when_and_why(world: World) -> None:
    pid = amended(world)
    (row,) = rows(world.monitor, participant=pid, action="visit:amended")
    assert (row["study"], row["site"], row["actor_name"]) == (world.study, "A", "Somebody")
    assert (row["field"], row["old"], row["new"]) == ("occurred_on", "2025-01-25", "2025-01-27")
    assert (row["reason"], row["subject_type"], row["subject_version"]) == ("Read from the wrong line", "visit", 2)


def test_a_participant_means_all_their_records_and_nobody_elses(world: World) -> None:
    pid = documented(world)
    theirs = rows(world.monitor, site="A")
    amended(world)
    assert {row["subject_type"] for row in theirs} >= {"label_disclosure", "signature", "verification_withdrawal"}
    assert rows(world.monitor, participant=pid, limit=20) == theirs


def documented(world: World) -> str:
    """The pid of the only person of site A, who has some record of almost every kind."""
    event = a_report(world, "A").headers["Location"].rpartition("/reports")[0]
    pid = str(world.staff_a.get(event).json()["participant"])
    body = world.visit(pid, outcomes=[suicidal()])
    visit = made(world, "A", "/v1/visits", body).json()
    made(world, "A", f"/v1/participants/{pid}/withdrawals", WITHDRAWAL)
    made(world, "A", f"/v1/participants/{pid}/treatments", TREATMENT)
    with_password(world, world.investigator)
    lock = {"kind": "freeze", "study": world.study, "participant": pid, "reason": "cleaning for the interim look"}
    verified = {"subject_type": "visit", "subject": visit["id"], "version": 1, "result": "verified"}
    for caller, path, sent in (
        (world.investigator, "/v1/signatures", signature_of(world, visit)),
        (world.monitor, f"{event}/reviews", {"kind": "acknowledged", "version": 1}),
        (world.monitor, "/v1/data-queries", question_about(world.staff_a.get(event).json())),
        (world.monitor, "/v1/verifications", verified),
        (world.monitor, "/v1/locks", lock),
        (world.monitor, "/v1/label-disclosures", asking(pid)),
    ):
        answer = caller.post(path, sent)
        assert answer.status_code == 201, answer.text
        if path == "/v1/verifications":
            caller.post(f"{answer.headers['Location']}/withdrawal", {"reason": "the wrong record"})
    return pid


NO_RECORD_OF_ITS_OWN = {
    "data_query_message": "in the entries of its query",
    "extract_subject": "who is in an extract; its entries are about the extract, in the registry's own chain",
    "outcome_score": "in the entries of its outcome",
    "reserved_pid": "a pid that nobody has yet; the entry is about the whole block",
    "therapy_session": "in the entries of its visit",
    "vault_identity": "the site's label, which no entry may carry",
}


def test_every_table_about_a_person_is_found_by_the_person_or_has_no_entries() -> None:
    about = {table.name for table in SQLModel.metadata.sorted_tables if "pid" in table.c}
    for table in SQLModel.metadata.sorted_tables:
        if any(key.column.table.name in about for key in table.foreign_keys):
            about.add(table.name)
    found = {table_of(model).name for model in NAMED_BY}
    assert found.isdisjoint(NO_RECORD_OF_ITS_OWN)
    assert about == {"participant"} | found | NO_RECORD_OF_ITS_OWN.keys()


def test_filters_narrow_all_together(world: World) -> None:
    amended(world)
    every = rows(world.monitor)
    one = rows(world.monitor, action="visit:amended")[0]
    asked = {name: one[name] for name in ("study", "site", "subject_type", "subject_id", "actor", "action")}
    assert rows(world.monitor, **asked, at_from=one["at"], at_to=one["at"]) == [one]
    assert rows(world.monitor, site="B") == []
    assert rows(world.monitor, at_from="2100-01-01T00:00:00Z") == []
    assert [row["field"] for row in every if row["subject_id"] == one["subject_id"]] != []
    assert world.monitor.get("/v1/audit-entries", sight="A").status_code == 422


def test_a_subject_is_found_by_its_pid_as_answers_show_it(world: World) -> None:
    pid = world.enrolled("A")
    for kind, name in (("participant", pid), ("consent", f"{pid}/1"), ("consent", f"{pid.lower()}/1")):
        stored = {"subject_type": kind, "subject_id": name.upper().replace("-", "")}
        found = rows(world.monitor, **stored)
        assert found != []
        assert rows(world.monitor, subject_type=kind, subject_id=name) == found


def test_pages_join_to_the_same_rows_without_a_gap(world: World) -> None:
    amended(world)
    assert rows(world.monitor, limit=1) == rows(world.monitor)


def test_each_reader_sees_what_is_theirs(world: World) -> None:
    amended(world)
    an_event(world, "B")
    an_extract(world)
    staff, other = world.staff_a, world.caller((Role.site_staff, "A"))
    assert {row["site"] for row in rows(world.monitor_a)} == {"A"}
    assert {row["site"] for row in rows(world.monitor)} == {"A", "B"}
    assert {row["site"] for row in rows(staff)} == {"A"}
    assert rows(other) == []
    assert {row["chain"] for row in rows(world.admin, limit=500)} == {0}
    for caller in (world.analyst, world.custodian):
        assert caller.get("/v1/audit-entries").status_code == 403


def test_a_monitor_does_not_oversee_a_site_where_they_are_staff(world: World) -> None:
    amended(world)
    an_event(world, "B")
    both = world.caller((Role.site_staff, "A"), (Role.monitor, "B"))
    assert {row["site"] for row in rows(both)} == {"B"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "'=", '"='])
def test_what_somebody_typed_is_never_a_formula_in_the_csv_and_is_read_back_exactly(world: World, start: str) -> None:
    reason = f"x {start}cmd" if start.isspace() else f'{start}1+2;",=3\n=4'
    pid = amended(world, reason)
    found = csv_rows(world.monitor, participant=pid)
    assert not any(cell[:1] in "=+-@\t\r" for row in found for cell in row.values() if cell)
    assert reason in [json.loads(row["reason"]) for row in found]


def test_the_csv_holds_the_rows_of_the_pages_and_each_hash_can_be_reckoned_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.csv_lines.BLOCK", 2)
    amended(world)
    found = csv_rows(world.monitor, site="A", study=world.study)
    as_json = {"actor_name", "old", "new", "reason", "request_id"}
    read = [{name: json.loads(cell) if name in as_json else cell for name, cell in row.items()} for row in found]
    pages = rows(world.monitor, site="A", study=world.study)
    assert sorted(json.dumps(list(map(str, row.values()))) for row in read) == sorted(
        json.dumps(["" if value is None and name == "field" else str(value) for name, value in row.items()])
        for row in pages
    )
    entries: dict[int, dict[str, Any]] = {}
    for row in read:
        entry = entries.setdefault(int(row["seq"]), {**row, "changes": []})
        if row["field"]:
            entry["changes"].append({name: row[name] for name in ("field", "old", "new")})
    assert sorted(entries) == list(range(1, len(entries) + 1))
    for entry in entries.values():
        numbers = {"site_id": int(entry["chain"]), "seq": int(entry["seq"])}
        version = {"subject_version": int(entry["subject_version"]), "changes": canonical_json(entry["changes"])}
        assert entry_hash({**entry, **numbers, **version}) == entry["hash"]


def test_a_look_into_the_vault_is_remembered_with_the_pid_and_without_the_label(world: World) -> None:
    body = world.enrolment(site_local_id="Zq-vault-77")
    pid = world.staff_a.post("/v1/participants", body).json()["pid"]
    asked = {name: body[name] for name in ("study", "site", "site_local_id")}
    assert world.staff_a.post("/v1/participants/lookup", asked).is_success
    (row,) = rows(world.monitor, action="vault:looked-up")
    assert (row["subject_id"], row["site"], row["field"]) == (pid.replace("-", ""), "A", None)
    assert "vault-77" not in json.dumps(rows(world.monitor))


# Refused attempts.


def refused(world: World, account: str) -> list[dict[str, Any]]:
    with world.registry.database.read() as session:
        asked = "SELECT changes, request_id FROM audit_entry WHERE action = 'request:refused' AND actor = :a"
        found = session.execute(text(f"{asked} ORDER BY seq"), {"a": account}).all()
    return [
        {change["field"]: change["new"] for change in json.loads(row.changes)} | {"request": row.request_id}
        for row in found
    ]


def new_caller(world: World, role: Role, site: str | None = None) -> tuple[Caller, str]:
    account = world.account((role, site))
    return Caller(world.registry.client, world.token(account)), str(account.id)


def test_a_403_and_a_404_on_a_write_are_remembered_by_template_only(world: World) -> None:
    caller, account = new_caller(world, Role.site_staff, "A")
    foreign = a_visit(world, "B")
    path, absent = foreign.headers["Location"], "/v1/visits/00000000-0000-4000-8000-000000000000"
    answers = [caller.get("/v1/users?x=typed"), caller.get(path)]
    body = {"occurred_on": "2025-01-26", "reason": "a reason"}
    answers += [caller.patch(one, body, foreign.headers["ETag"]) for one in (path, absent)]
    assert [answer.status_code for answer in answers] == [403, 404, 404, 404]
    found = refused(world, account)
    amend = {"method": "PATCH", "route": "/v1/visits/{visit_id}", "code": "not_found"}
    assert [{**one, "request": ""} for one in found] == [
        {"method": "GET", "route": "/v1/users", "code": "permission_missing", "request": ""},
        *[{**amend, "request": ""}] * 2,
    ]
    assert found[0]["request"] == answers[0].headers["X-Request-Id"]
    one, other = answers[2:]
    assert {**one.json(), "request_id": ""} == {**other.json(), "request_id": ""}
    assert one.headers.keys() == other.headers.keys()


def test_trying_whether_a_label_is_enrolled_leaves_an_entry(world: World) -> None:
    caller, account = new_caller(world, Role.site_staff, "A")
    known = world.enrolment("A")
    assert world.staff_a.post("/v1/participants", known).status_code == 201
    tries = [caller.post(path, known) for path in ("/v1/participants", "/v1/participants?dry_run=true")]
    assert [(one.status_code, one.json()["code"]) for one in tries] == [(409, "label_already_enrolled")] * 2
    assert "label_already_enrolled" in test_bulk.sent(caller, "participants", [test_bulk.line(known)]).text
    assert [one["code"] for one in refused(world, account)] == ["label_already_enrolled"] * 3
    assert caller.post("/v1/participants", world.enrolment("A")).status_code == 201
    assert len(refused(world, account)) == 3


def test_a_flood_of_refusals_leaves_ten_entries_a_minute_and_says_how_many_were_left_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, account = new_caller(world, Role.analyst)
    for _ in range(25):
        assert caller.get("/v1/users").status_code == 403
    assert len(refused(world, account)) == refusals.PER_MINUTE
    monkeypatch.setattr(refusals, "_MINUTE_SECONDS", 0.0)
    assert caller.get("/v1/users").status_code == 403
    assert [one.get("left_out") for one in refused(world, account)] == [None] * 10 + [15]


def test_a_refusal_is_answered_alike_when_it_cannot_be_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, account = new_caller(world, Role.analyst)

    def down(_: Database) -> Any:
        raise DatabaseUnavailable

    with monkeypatch.context() as broken:
        broken.setattr(Database, "write", down)
        answer = caller.get("/v1/users")
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_missing")
    assert refused(world, account) == []
    caller.get("/v1/users")
    assert [one.get("left_out") for one in refused(world, account)] == [1]


def test_an_extract_download_and_a_sign_in_are_access_events_for_the_admin(world: World) -> None:
    path = an_extract(world, approved=True)
    assert world.analyst.get(f"{path}/files/visits.csv").is_success
    found = rows(world.admin, subject_type="extract", subject_id=path.rsplit("/", 1)[1])
    assert {"extract:requested", "extract:approved", "extract:built", "extract:downloaded"} == {
        row["action"] for row in found
    }
