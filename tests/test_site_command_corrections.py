"""`registry-site upload` of a file whose row was corrected since: the row is reported, and not stored a second time."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import LiveStudy, live_study
from tests.server import LiveServer
from tests.test_client import command, of_site, registry_of, signed

HEAD = "participant,term,onset,severity,end,criteria.hospitalisation"


@pytest.fixture
def live(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        of_site(study, monkeypatch)
        yield study


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "records.csv"


def upload(file: Path, *rows: str, noun: str = "adverse-events", head: str = HEAD, more: tuple[str, ...] = ()) -> Any:
    file.write_text("\n".join((head, *rows)) + "\n")
    return command("upload", noun, str(file), *more, env={"COLUMNS": "400"})


def events(live: LiveStudy) -> list[tuple[str, str]]:
    read = live.http.get("/v1/adverse-events", headers=signed(live)).json()["items"]
    return sorted((one["term"], one["severity"]) for one in read)


def as_told(output: str) -> list[str]:
    """The arguments of the correction that the command proposes."""
    found = re.search(r"registry-site (amend .*)", output)
    assert found, output
    return [text.replace("REASON", "misread") for text in shlex.split(found[1])]


def test_a_corrected_event_is_reported_with_its_command_and_a_new_one_is_stored(live: LiveStudy, file: Path) -> None:
    pid = live.enrolled()
    first, second = f"{pid},Headache,2025-02-03,mild,2025-02-05,", f"{pid},Nausea,2025-02-03,mild,,"
    corrected, new = f"{pid},Headache,2025-02-03,moderate,,TRUE", f"{pid},Fatigue,2025-03-01,mild,,"
    assert upload(file, first, second).exit_code == 0
    done = upload(file, corrected, second, new)
    assert (done.exit_code, "2 of 3 rows are stored" in done.stdout) == (1, True), done.output
    assert events(live) == [("Fatigue", "mild"), ("Headache", "mild"), ("Nausea", "mild")]
    assert 'severity is "mild", here "moderate"' in done.stdout
    assert 'end is "2025-02-05", here nothing' in done.stdout
    assert "row 2:" in done.stdout
    assert f"/v1/adverse-events/{_id_of(live, 'Headache')}" in done.stdout
    amended = command(*as_told(done.stdout))
    assert amended.exit_code == 0, amended.output
    again = upload(file, corrected, second, new)
    assert (again.exit_code, "3 of 3 rows are stored" in again.stdout) == (0, True), again.output
    assert events(live) == [("Fatigue", "mild"), ("Headache", "moderate"), ("Nausea", "mild")]


def _id_of(live: LiveStudy, term: str) -> str:
    read = live.http.get("/v1/adverse-events", headers=signed(live), params={"term": term}).json()["items"]
    return str(read[0]["id"])


def test_an_event_that_was_entered_in_error_is_voided_from_the_shell(live: LiveStudy, file: Path) -> None:
    upload(file, f"{live.enrolled()},Headache,2025-02-03,mild,,")
    address = f"/v1/adverse-events/{_id_of(live, 'Headache')}"
    etag = live.http.get(address, headers=signed(live)).headers["ETag"]
    assert command("void", address, etag, "of another participant").exit_code == 0
    assert events(live) == []


def test_a_consent_that_was_recorded_in_error_is_voided_from_the_shell(live: LiveStudy, file: Path) -> None:
    person = f"/v1/participants/{live.enrolled()}"
    etag = live.http.get(person, headers=signed(live)).headers["ETag"]
    assert command("void", f"{person}/consents/1/1", etag, "of another participant").exit_code == 0
    told = live.http.get(f"{person}/consents", headers=signed(live)).json()
    assert (told["scopes_today"], told["consents"][0]["voiding_reason"]) == ([], "of another participant")


def test_a_participant_who_was_enrolled_twice_is_voided_from_the_shell(live: LiveStudy, file: Path) -> None:
    person = f"/v1/participants/{live.enrolled()}"
    etag = live.http.get(person, headers=signed(live)).headers["ETag"]
    assert command("void", person, etag, "enrolled twice").exit_code == 0
    assert live.http.get(person, headers=signed(live)).json()["voiding_reason"] == "enrolled twice"


def test_an_event_that_was_reported_is_nullified_from_the_shell_and_then_voided(live: LiveStudy, file: Path) -> None:
    upload(file, f"{live.enrolled()},Headache,2025-02-03,severe,,TRUE")
    address = f"/v1/adverse-events/{_id_of(live, 'Headache')}"
    with registry_of(live) as registry:
        registry.post(f"{address}/reports", {"kind": "initial"})
        etag = registry.get(address).etag
    assert etag is not None
    reason = "of another participant"
    assert "event_reported" in str(command("void", address, etag, reason).exception)
    late = command("nullify", address, "2025-03-01T09:00:00Z", reason)
    assert "late_reason_missing" in str(late.exception)
    done = command("nullify", address, "2025-03-01T09:00:00Z", reason, "--late-reason", "found at the visit")
    assert (done.exit_code, done.stdout) == (0, "Nullified.\n"), done.output
    assert command("void", address, etag, reason).exit_code == 0
    assert events(live) == []


def test_a_correction_that_somebody_was_faster_with_is_refused(live: LiveStudy, file: Path) -> None:
    pid = live.enrolled()
    upload(file, f"{pid},Headache,2025-02-03,mild,,")
    told = as_told(upload(file, f"{pid},Headache,2025-02-03,moderate,,").stdout)
    assert command(*told[:-1], "severity=severe").exit_code == 0
    assert "version_stale" in str(command(*told).exception)
    assert events(live) == [("Headache", "severe")]


def test_another_event_that_looks_like_a_correction_is_stored_when_somebody_says_so(
    live: LiveStudy, file: Path
) -> None:
    pid = live.enrolled()
    assert upload(file, f"{pid},Headache,2025-02-03,mild,,").exit_code == 0
    later = f"{pid},Headache,2025-02-09,mild,,"
    held = upload(file, later)
    assert (held.exit_code, "--new 2" in held.stdout) == (1, True), held.output
    assert len(events(live)) == 1
    for _ in range(2):
        assert upload(file, later, more=("--new", "2")).exit_code == 0
        assert len(events(live)) == 2


def test_two_rows_of_which_each_may_be_the_corrected_one_are_both_asked_about(live: LiveStudy, file: Path) -> None:
    pid = live.enrolled()
    upload(file, f"{pid},Headache,2025-02-03,mild,,")
    done = upload(file, f"{pid},Migraine,2025-02-03,mild,,", f"{pid},Headache,2025-02-04,mild,,")
    assert "0 of 2 rows are stored" in done.stdout, done.output
    assert events(live) == [("Headache", "mild")]


def test_a_file_is_stored_once_whoever_uploads_it_and_however_late(
    live: LiveStudy, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = live.enrolled()
    rows = [f"{pid},Headache,2025-02-03,mild,,", f"{pid},Headache,2025-02-03,mild,,", f"{pid},Nausea,2025-02,mild,,"]
    assert upload(file, *rows).exit_code == 0
    of_site(live, monkeypatch)  # another app: the registry knows none of its keys, as after 90 days
    again = upload(file, *rows)
    assert (again.exit_code, "3 of 3 rows are stored" in again.stdout) == (0, True), again.output
    assert len(events(live)) == 3


def test_a_dry_run_of_a_corrected_file_reports_the_same_and_stores_nothing(live: LiveStudy, file: Path) -> None:
    pid = live.enrolled()
    upload(file, f"{pid},Headache,2025-02-03,mild,,")
    done = upload(file, f"{pid},Headache,2025-02-03,moderate,,", f"{pid},Rash,2025-04,mild,,", more=("--dry-run",))
    assert "1 of 2 rows are valid" in done.stdout, done.output
    assert "registry-site amend" in done.stdout
    assert events(live) == [("Headache", "mild")]


def test_a_corrected_visit_is_reported_with_its_command(live: LiveStudy, file: Path) -> None:
    pid, head = live.enrolled(), "participant,visit_code,occurred_on,status"
    assert upload(file, f"{pid},BL,2025-01-25,completed", noun="visits", head=head).exit_code == 0
    corrected = f"{pid},BL,2025-01-26,completed"
    told = upload(file, corrected, noun="visits", head=head)
    assert (told.exit_code, "visit_already_recorded" in told.stdout) == (1, True), told.output
    assert 'occurred_on is "2025-01-25", here "2025-01-26"' in told.stdout
    assert command(*as_told(told.stdout)).exit_code == 0
    again = upload(file, corrected, noun="visits", head=head)
    assert "1 of 1 rows are stored" in again.stdout, again.output


def test_a_corrected_outcome_is_reported_with_its_command(live: LiveStudy, file: Path) -> None:
    pid = live.enrolled()
    held = {"participant": pid, "visit_code": "BL", "occurred_on": "2025-01-25", "status": "completed"}
    visit = live.staff.post("/v1/visits", held).json()["id"]
    head = "participant,visit,instrument,rater," + ",".join(f"items.MADRS_{number:02}" for number in range(1, 11))
    row = f"{pid},{visit},MADRS,R1,2,2,2,2,2,2,2,2,2,"
    assert upload(file, f"{row}2", noun="outcomes", head=head).exit_code == 0
    told = upload(file, f"{row}5", noun="outcomes", head=head)
    assert "items.MADRS_10 is 2, here 5" in told.stdout, told.output
    assert command(*as_told(told.stdout)).exit_code == 0
    (read,) = live.http.get("/v1/outcomes", headers=signed(live)).json()["items"]
    assert (read["items"]["MADRS_10"], read["scores"][0]["value"]) == (5, 23)
    assert "1 of 1 rows are stored" in upload(file, f"{row}5", noun="outcomes", head=head).stdout
