"""Extracts: what an analyst gets, what never leaves, and who has to agree."""

import csv
import hashlib
import io
import json
from contextlib import ExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from app.models.account import Role
from app.models.base import now, values
from app.models.extract import Extract, ExtractProfile, ExtractSubject
from app.privacy.profile import PROFILES, Column, NotReleasable, cell
from app.privacy.treatment import Treatment
from app.services.extracts import extract_ends, extract_rows
from tests.bundle_checker import Opened
from tests.route_cases import an_extract
from tests.world import World, madrs

CANARY = "Canary7731"


def files(world: World, **more: Any) -> dict[str, str]:
    """Every file of a fresh, approved extract."""
    path = an_extract(world, approved=True, **more)
    bundle = Opened(world.analyst.get(f"{path}/files/bundle.zip").content)
    return {name: content.decode() for name, content in bundle.files.items()}


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def course(world: World, **changes: Any) -> str:
    pid = world.enrolled(**changes)
    visits = [("SCR", "2025-01-05"), ("BL", "2025-01-25"), ("DOS1", "2025-02-01"), ("INT1A", "2025-02-02")]
    for code, day in visits:
        body = world.visit(pid, code, day, outcomes=[madrs(3)] if code == "BL" else [])
        assert world.staff_a.post("/v1/visits", body).status_code == 201
    return pid


def test_days_are_counted_from_the_first_dosing_without_a_day_zero(world: World) -> None:
    course(world)
    days = {row["visit_code"]: row["study_day"] for row in table(files(world)["visits.csv"])}
    assert days == {"SCR": "-27", "BL": "-7", "DOS1": "1", "INT1A": "2"}


def test_a_score_arrives_as_the_server_computed_it(world: World) -> None:
    course(world)
    (row,) = table(files(world)["outcomes.csv"])
    assert (row["instrument"], row["score"], row["value"], row["band"]) == ("MADRS", "total", "30", "moderate")


def test_an_onset_becomes_a_study_day_only_when_its_day_is_known(world: World) -> None:
    pid = course(world)
    for onset in ("2025-02-03", "2025-01-31", "2025-02", "2025", None):
        assert world.staff_a.post("/v1/adverse-events", world.event(pid, onset=onset)).status_code == 201
    days = sorted(row["onset_day"] for row in table(files(world)["adverse_events.csv"]))
    assert days == ["", "", "", "-1", "3"]


def test_one_subject_id_joins_the_files_and_no_pid_or_label_leaves(world: World) -> None:
    body = world.enrolment(site_local_id=CANARY)
    pid = world.staff_a.post("/v1/participants", body).json()["pid"]
    world.staff_a.post("/v1/visits", world.visit(pid, outcomes=[madrs(1)]))
    world.staff_a.post("/v1/adverse-events", world.event(pid))
    got = files(world)
    subjects = {row["subject"] for row in table(got["visits.csv"])}
    assert {row["subject"] for row in table(got["outcomes.csv"])} == subjects
    assert {row["subject"] for row in table(got["adverse_events.csv"])} == subjects
    whole = "".join(got.values())
    for hidden in (pid, pid.replace("-", ""), CANARY, "2025-01"):
        assert hidden not in whole


def test_the_database_lets_no_two_people_of_an_extract_have_one_subject_id(world: World) -> None:
    course(world)
    assert files(world)
    with world.registry.database.read() as session:
        newest = select(ExtractSubject).join(Extract, col(Extract.id) == col(ExtractSubject.extract_id))
        row = session.exec(newest.order_by(col(Extract.created_at).desc())).first()
    assert row is not None
    with pytest.raises(IntegrityError), world.registry.database.write() as session:
        session.execute(insert(ExtractSubject).values({**values(row), "pid": "0" * 12}))


def test_two_extracts_share_no_subject_id(world: World) -> None:
    course(world)
    first, second = (files(world, agreement=f"DUA-{number}")["participants.csv"] for number in (1, 2))
    ids = [{row["subject"] for row in table(text)} for text in (first, second)]
    assert ids[0].isdisjoint(ids[1])


def test_no_free_text_of_any_field_leaves(world: World) -> None:
    pid = course(world)
    coding = [
        {"system": CANARY, "version": CANARY, "code": CANARY, "term": CANARY, "level": level} for level in ("pt", "soc")
    ]
    event = world.event(pid, term=CANARY, codings=coding)
    assert world.staff_a.post("/v1/adverse-events", event).status_code == 201
    missed = world.visit(pid, "PREP1", None, status="missed", deviation_reason=CANARY)
    assert world.staff_a.post("/v1/visits", missed).status_code == 201
    got = files(world)
    assert CANARY not in "".join(got.values())
    (row,) = table(got["adverse_events.csv"])
    assert (row["soc"], row["pt"], row["severity"]) == ("OTHER", "OTHER", "mild")


@pytest.mark.parametrize("people", [1, 500], ids=["one at a time", "all at once"])
def test_a_term_shared_by_twelve_participants_is_shown(
    world: World, monkeypatch: pytest.MonkeyPatch, people: int
) -> None:
    """Also where the table is read for some people at a time: who shares a term is asked of all."""
    monkeypatch.setattr(extract_rows, "STRETCH", people)
    coding = [{"system": "own", "term": "Head", "level": "soc"}]
    for number in range(12):
        pid = world.enrolled()
        world.staff_a.post("/v1/adverse-events", world.event(pid, codings=coding))
        if number == 10:
            assert {row["soc"] for row in table(files(world)["adverse_events.csv"])} == {"OTHER"}
    assert {row["soc"] for row in table(files(world)["adverse_events.csv"])} == {"Head"}


def test_only_participants_who_share_data_are_in_an_extract(world: World) -> None:
    course(world)
    course(world, consent={"version": "1", "given_on": "2025-01-02", "scopes": ["main"]})
    got = files(world)
    sharing = 2  # the course above and the one that an_extract enrols
    assert len(table(got["participants.csv"])) == sharing
    assert len({row["subject"] for row in table(got["visits.csv"])}) == 1
    assert json.loads(got["manifest.json"])["subjects"] == sharing


def test_nobody_sharing_is_a_refusal_not_an_empty_file(world: World) -> None:
    path = world.analyst.post("/v1/extracts", {"study": world.study, "purpose": "A question"}).headers["Location"]
    answer = world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use"})
    assert (answer.status_code, answer.json()["code"]) == (422, "cohort_empty")
    assert world.analyst.get(path).json()["status"] == "requested"


def test_the_manifest_fits_the_files_and_the_codebook_every_column(world: World) -> None:
    course(world)
    got = files(world)
    manifest = json.loads(got["manifest.json"])
    for file in manifest["files"]:
        assert hashlib.sha256(got[file["name"]].encode()).hexdigest() == file["sha256"]
        assert len(got[file["name"]].encode()) == file["bytes"]
        if file["rows"] is not None:
            assert len(table(got[file["name"]])) == file["rows"]
    columns = {(column["file"], column["name"]) for column in json.loads(got["codebook.json"])["columns"]}
    written = {
        (name, head)
        for name in PROFILES[ExtractProfile.pseudonymised].files
        for head in got[name].splitlines()[0].split(",")
    }
    assert columns == written
    published = world.analyst.get("/v1/codebook", profile="pseudonymised").json()
    assert {(column["file"], column["name"]) for column in published["columns"]} == columns


def test_a_cell_of_a_coded_column_holds_a_code_of_the_codebook(world: World) -> None:
    course(world)
    got = files(world)
    coded = [column for column in json.loads(got["codebook.json"])["columns"] if column["codes"]]
    assert {"severity", "status", "instrument", "band", "eligible"} <= {column["name"] for column in coded}
    for column in coded:
        found = {row[column["name"]] for row in table(got[column["file"]])} - {""}
        assert found <= set(column["codes"]), column
    units = {(column["name"], column["unit"]) for column in json.loads(got["codebook.json"])["columns"]}
    assert {("study_day", "days"), ("age_group", "years"), ("value", "points of the score"), ("sex", None)} <= units
    before = world.analyst.get("/v1/codebook", profile="pseudonymised", format="csv")
    assert (before.text, before.headers["content-type"]) == (got["codebook.csv"], "text/csv; charset=utf-8")
    lines = table(got["codebook.csv"])
    assert next(line["codes"] for line in lines if line["name"] == "severity") == "mild|moderate|severe"


def test_an_extract_shows_the_state_at_its_approval(world: World) -> None:
    course(world)
    path = an_extract(world, approved=True)
    before = world.analyst.get(f"{path}/files/participants.csv").text
    course(world)
    assert world.analyst.get(f"{path}/files/participants.csv").text == before


@pytest.mark.parametrize("purpose", ["   ", "q", "\u00a0\n\t "])
def test_a_purpose_must_say_something(world: World, purpose: str) -> None:
    for caller, path, more in (
        (world.analyst, "/v1/extracts", {}),
        (world.custodian, "/v1/data-cuts", {"name": "interim"}),
    ):
        refused = caller.post(path, {"study": world.study, "purpose": purpose, **more})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/purpose")


def test_the_person_who_asked_cannot_approve(world: World) -> None:
    path = an_extract(world)
    assert world.analyst.post(f"{path}/approval", {"decision": "approve", "reason": "my own"}).status_code == 403


def test_the_person_who_asked_cannot_approve_under_another_role_nor_past_the_server(world: World) -> None:
    """Nobody is given both roles; but an analyst may become custodian while a request waits."""
    both = world.caller((Role.analyst, None), (Role.custodian, None))
    path = both.post("/v1/extracts", {"study": world.study, "purpose": "A question"}).headers["Location"]
    for decision in ("approve", "refuse"):
        refused = both.post(f"{path}/approval", {"decision": decision, "reason": "my own"})
        assert (refused.status_code, refused.json()["code"]) == (409, "second_person_needed")
    mine = update(Extract).where(col(Extract.id) == UUID(path.rpartition("/")[2]))
    with pytest.raises(IntegrityError, match="second_person"), world.registry.database.write() as session:
        session.execute(mine.values(decided_by=Extract.requested_by))


@pytest.mark.parametrize(("profile", "people"), [("pseudonymised", 14), ("deidentified", 14), ("aggregate", 15)])
def test_a_dry_run_of_an_approval_says_how_many_people_the_extract_would_have(
    world: World, profile: str, people: int
) -> None:
    """Of tables rounded, as in their manifest."""
    world.uploaded("participants", [world.enrolment() for _ in range(14)])
    asked = {"study": world.study, "purpose": "A question", "profile": profile}
    agreed = {"agreement": "DUA-7"} if profile == "pseudonymised" else {}
    path = world.analyst.post("/v1/extracts", {**asked, **agreed}).headers["Location"]
    told = world.custodian.post(f"{path}/approval?dry_run=true", {"decision": "approve", "reason": "agreed use"})
    assert (told.json()["answer"]["subjects"], world.custodian.get(path).json()["subjects"]) == (people, None)


def test_a_custodian_sees_what_waits_and_who_receives_it_for_what(world: World) -> None:
    decided, waits = an_extract(world, approved=True), an_extract(world)
    (found,) = world.custodian.get("/v1/extracts", status="requested", study=world.study).json()["items"]
    asker, custodian = (one.get("/v1/me").json()["id"] for one in (world.analyst, world.custodian))
    assert (found["id"], found["organisation"]) == (waits.rpartition("/")[2], "Test")
    assert [found[name] for name in ("requested_by", "decided_by")] == [asker, None]
    read = world.custodian.get(decided).json()
    assert [read[name] for name in ("requested_by", "decided_by")] == [asker, custodian]


def test_the_files_name_their_recipient_and_the_purpose_that_was_approved(world: World) -> None:
    got = files(world, purpose="Sleep and\nmood")
    manifest = json.loads(got["manifest.json"])
    assert [manifest[name] for name in ("organisation", "purpose")] == ["Test", "Sleep and\nmood"]
    assert "For: Test\nPurpose: Sleep and mood\nAgreement: DUA-2026-014\n" in got["README.txt"]


def test_a_decision_is_final(world: World) -> None:
    path = an_extract(world)
    refusal = {"decision": "refuse", "reason": "Purpose too vague"}
    assert world.custodian.post(f"{path}/approval", refusal).json()["status"] == "refused"
    again = world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "changed mind"})
    assert (again.status_code, again.json()["code"]) == (409, "extract_decided")
    assert world.analyst.get(path).json()["files"] == []


def test_an_approval_waits_for_no_second_connection_of_the_pool(world: World) -> None:
    """As many approvals at once as there are connections would wait for each other, and everybody with them."""
    path, engine = an_extract(world), world.registry.served.engine
    with pytest.MonkeyPatch.context() as patched, ExitStack() as taken:
        patched.setattr(engine.pool, "_timeout", 0.1)
        for _ in range(world.registry.app.state.settings.pool_size - 1):
            taken.enter_context(engine.connect())
        decided = world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use"})
    assert decided.status_code == 201, decided.text


def test_an_extract_is_the_recipients_alone(world: World) -> None:
    path = an_extract(world, approved=True)
    other = world.caller((Role.analyst, None))
    for place in (path, f"{path}/files/visits.csv"):
        assert other.get(place).status_code == 404
    assert path.rsplit("/", 1)[1] not in other.get("/v1/extracts").text
    elsewhere = World(world.registry)
    assert elsewhere.custodian.get(path).status_code == 404
    assert world.custodian.get(path).status_code == 200
    assert world.custodian.get(f"{path}/files/visits.csv").status_code == 403


@pytest.mark.by_turns
@pytest.mark.parametrize("name", ["nothing.csv", "..%2Fkeys.json", "visits.csv%00", "VISITS.CSV"])
def test_a_missing_file_is_404(world: World, name: str) -> None:
    assert world.analyst.get(f"{an_extract(world, approved=True)}/files/{name}").status_code in {404, 422}


@pytest.mark.parametrize(
    ("source", "treatment"),
    [
        ("participant.pid", Treatment.as_stored),
        ("participant.age_at_consent", Treatment.as_stored),
        ("visit.occurred_on", Treatment.as_stored),
        ("adverse_event.term", Treatment.common_term),
        ("vault_identity.ciphertext", Treatment.as_stored),
        ("participant.site_id", Treatment.subject),
    ],
)
def test_a_column_cannot_be_declared_against_its_class(source: str, treatment: Treatment) -> None:
    with pytest.raises(NotReleasable):
        Column("x", "X", source, treatment=treatment)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", " =1", "a\nb", "＝1", "a;=1", "a|=1", 'a"'])  # noqa: RUF001
def test_no_cell_can_begin_a_formula(text: str) -> None:
    assert cell(text) == "OTHER"


@pytest.mark.parametrize("text", ["Økt blodtrykk", "Sjögren's syndrome", "Nausea & vomiting", "Łuszczyca", "Тошнота"])
def test_terms_of_other_languages_leave_as_they_are(text: str) -> None:
    assert cell(text) == text


@pytest.mark.parametrize(("value", "text"), [(30.0, "30"), (12.5, "12.5"), (True, "Y"), (None, ""), (-3, "-3")])
def test_numbers_are_written_alike_on_both_databases(value: Any, text: str) -> None:
    assert cell(value) == text


def test_files_can_be_downloaded_until_they_expire_and_are_then_deleted(world: World) -> None:
    path = an_extract(world, approved=True)
    days = world.analyst.get(path).json()
    assert days["expires_at"] > days["updated_at"]
    with world.registry.database.write() as session:
        session.get_one(Extract, UUID(days["id"])).expires_at = now() - timedelta(seconds=1)
    refused = world.analyst.get(f"{path}/files/visits.csv")
    assert (refused.status_code, refused.json()["code"]) == (410, "extract_expired")
    assert extract_ends.expire(world.registry.served) == 1
    assert extract_ends.expire(world.registry.served) == 0
    read = world.analyst.get(path).json()
    assert (read["status"], read["files"]) == ("expired", [])
    assert read["manifest"] is not None
    assert world.analyst.get(f"{path}/files/visits.csv").status_code == 410


def test_an_extract_that_ended_meanwhile_is_not_counted_among_those_that_expire(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [UUID(an_extract(world, approved=True).rpartition("/")[2]) for _ in range(2)]
    ours = col(Extract.id).in_(ids)
    with world.registry.database.write() as session:
        session.execute(update(Extract).where(ours).values(expires_at=now() - timedelta(seconds=1)))
    end = extract_ends.end

    def end_both(session: Session, _: Extract, *how: Any) -> None:
        for row in session.exec(select(Extract).where(ours)).all():
            end(session, row, *how)

    monkeypatch.setattr(extract_ends, "end", end_both)
    assert extract_ends.expire(world.registry.served) == 1


def test_a_custodian_revokes_an_extract_for_good(world: World) -> None:
    path = an_extract(world, approved=True)
    taken = world.custodian.post(f"{path}/revocation", {"reason": "shared with others"})
    assert (taken.status_code, taken.json()["status"], taken.json()["files"]) == (201, "revoked", [])
    refused = world.analyst.get(f"{path}/files/visits.csv")
    assert (refused.status_code, refused.json()["code"]) == (410, "extract_revoked")
    again = world.custodian.post(f"{path}/revocation", {"reason": "shared with others"})
    assert (again.status_code, again.json()["code"]) == (409, "extract_not_ready")
