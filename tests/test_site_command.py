"""`registry-site upload`: what people write into a spreadsheet."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_client.cli import _read, main
from tests.hostile import LiveStudy, live_study
from tests.server import LiveServer
from tests.test_client import command, of_site, signed


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def test_people_and_events_are_uploaded_as_a_spreadsheet_writes_them(
    live: LiveStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    of_site(live, monkeypatch)
    file = tmp_path / "events.csv"
    pid = live.enrolled()
    file.write_text(f"participant,term,onset,severity,criteria.death\n{pid},NaN,2025,mild,FALSE\n{pid},12,2025,mild,\n")
    done = command("upload", "adverse-events", str(file))
    assert "2 of 2 rows are stored" in done.stdout, done.output
    items = live.http.get("/v1/adverse-events", headers=signed(live)).json()["items"]
    assert {(one["term"], one["onset"]) for one in items} == {("NaN", "2025"), ("12", "2025")}


def test_a_file_with_semicolons_is_the_same_upload(tmp_path: Path) -> None:
    comma, semicolon = tmp_path / "comma.csv", tmp_path / "semicolon.csv"
    comma.write_text('participant,term,onset\nx,"Nausea; dizzy",2025\ny,"Rash, itching",\n')
    semicolon.write_text('\ufeffparticipant;term;onset\r\nx;"Nausea; dizzy";2025\r\ny;Rash, itching;\r\n')
    assert _read("adverse-events", semicolon) == _read("adverse-events", comma)


def test_a_cell_is_a_number_only_where_the_record_holds_one(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    head = "site_local_id,age_at_consent,consent.version,consent.scopes,items.MADRS_01,therapy.minutes"
    file.write_text(head + '\n4711,41,1,"[""main""]",2,50\n')
    _, (row,) = _read("participants", file)
    assert row.record == {
        "site_local_id": "4711",
        "age_at_consent": 41,
        "consent": {"version": "1", "scopes": ["main"]},
        "items": {"MADRS_01": 2},
        "therapy": {"minutes": 50},
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"participant,term\nx,Headache, bad\n", "row 2 has more cells"),
        ("participant,term\nx,\u00dcbelkeit\n".encode("cp1252"), "not in UTF-8"),
        (b'participant,term\nx,"Headache" bad\n', "is not CSV"),
        (b"visit,visit.code\nx,y\n", "the column visit"),
    ],
)
def test_a_file_that_cannot_be_read_ends_in_one_sentence(tmp_path: Path, text: bytes, told: str) -> None:
    file = tmp_path / "events.csv"
    file.write_bytes(text)
    done = command("upload", "adverse-events", str(file), env={"COLUMNS": "400"})
    assert (done.exit_code, told in done.output) == (2, True), done.output


def test_a_record_that_is_no_json_ends_in_one_sentence(live: LiveStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    of_site(live, monkeypatch)
    done = command("enrol", "{x")
    assert (done.exit_code, "the record is not JSON" in done.output) == (2, True)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (("watch", "--once"), "SITE_APP_CLIENT_ID"),
        (("outbox", "notes.txt"), "notes.txt is no outbox"),
        (("outbox", "no/such/folder/box.db"), "no/such/folder/box.db"),
    ],
    ids=["wrong secret", "no outbox", "no folder"],
)
def test_what_stops_a_command_is_said_in_one_sentence(
    live: LiveStudy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    line: tuple[str, ...],
    sentence: str,
) -> None:
    of_site(live, monkeypatch)
    monkeypatch.setenv("SITE_APP_CLIENT_SECRET", "another")
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("not an outbox, and longer than its header would be\n" * 4)
    with monkeypatch.context() as typed:
        typed.setattr("sys.argv", ["registry-site", *line])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr().err
    assert (ended.value.code, sentence in said, "Traceback" in said) == (2, True, False)


def test_an_address_without_a_scheme_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("URL", "registry.example.org"), ("CLIENT_ID", "x"), ("CLIENT_SECRET", "y")):
        monkeypatch.setenv(f"SITE_APP_{name}", value)
    assert "http" in command("watch", "--once").output
