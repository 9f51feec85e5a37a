"""The vault: a database of its own, rotation of its keys, erasures that outlive a restore."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import delete, func, text, update
from sqlmodel import col, select

from app import schema
from app.database import Database, vault_session
from app.main import create_app
from app.models.base import now, values
from app.models.participant import Participant, VaultIdentity
from app.models.sync import SyncOperation
from app.privacy import vault
from app.privacy.erasure_journal import ErasureJournal, noted
from app.privacy.vault import reveal_label
from app.security.keys import KeyFile, Keyring, new_key_file, write_key_file
from app.security.rotation import SPREAD_SECONDS, WRAPPING_ENDS, RotationRefused, rotated, without_kek
from app.services.operations import erasure, vault_care
from app.services.participation import enrolment
from app.settings import Settings
from tests.conftest import BuildsAtOnce
from tests.course_cases import WITHDRAWAL
from tests.hostile import failing_commit
from tests.label_cases import PATH, approved, asking
from tests.postgres import as_server, new_database, settings_of
from tests.test_key_rotation import LATER, START
from tests.test_sync import act, sync
from tests.world import Registry, World, label

KEYS = new_key_file(demo=True)
LONG_AFTER = LATER + timedelta(seconds=SPREAD_SECONDS) + WRAPPING_ENDS


def with_vault(folder: Path, main: str, vault: str) -> Settings:
    on_postgres = vault.startswith("postgresql")
    places = {"vault_url": as_server(vault), "owner_vault_url": vault} if on_postgres else {"vault_url": vault}
    return settings_of(main, folder / "keys.json", **places)


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def apart(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a registry whose vault is a database of its own; both are migrated."""
    folder = tmp_path_factory.mktemp("apart")
    write_key_file(folder / "keys.json", KEYS)
    if request.param == "sqlite":
        settings = with_vault(folder, f"sqlite:///{folder / 'main.db'}", f"sqlite:///{folder / 'vault.db'}")
        with Database(settings) as database:
            schema.upgrade(database)
        yield settings
        return
    server = request.getfixturevalue("postgres_url")
    with new_database(server) as main, new_database(server) as vault:
        settings = with_vault(folder, main, vault)
        with Database(settings) as database:
            schema.upgrade(database)
        yield settings


@pytest.fixture
def world(apart: Settings) -> Iterator[World]:
    app = create_app(apart)
    app.state.builder = BuildsAtOnce(apart, app.state.keyring)
    with Database(apart) as database, TestClient(app) as client:
        yield World(Registry(app, client, database))


def labels(database: Database | None) -> dict[str, VaultIdentity]:
    """The labels in one database."""
    assert database is not None
    with database.write() as session, vault_care.whole_vault(session):
        return {row.pid: row for row in session.exec(select(VaultIdentity))}


def erased(world: World, pid: str) -> None:
    body = {**WITHDRAWAL, "scope": "identity"}
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals", body).status_code == 201


def journal_of(settings: Settings) -> ErasureJournal:
    return ErasureJournal(settings.erasures, Keyring(KEYS))


def without_hyphens(pid: str) -> str:
    return pid.replace("-", "")


def test_a_label_goes_to_the_vaults_own_database_and_nowhere_else(world: World) -> None:
    main, theirs = world.registry.database, label()
    pid = world.enrolled(site_local_id=theirs)
    asked = {"study": world.study, "site": "A", "site_local_id": theirs}
    assert world.staff_a.post("/v1/participants/lookup", asked).json()["pid"] == pid
    assert world.staff_a.post("/v1/participants", world.enrolment(site_local_id=theirs)).status_code == 409
    assert labels(main) == {}
    assert without_hyphens(pid) in labels_apart(world)
    path = approved(world, world.monitor.post(PATH, asking(pid)).headers["Location"])
    assert world.monitor.post(f"{path}/reading", {}).json()["site_local_id"] == theirs


def labels_apart(world: World) -> dict[str, VaultIdentity]:
    with world.registry.database.write() as session, vault_care.whole_vault(session) as own:
        return {row.pid: row for row in own.exec(select(VaultIdentity))}


def test_an_extract_is_built_without_the_vault(apart: Settings, world: World) -> None:
    world.enrolled()
    away = (
        "sqlite:////nowhere/vault.db"
        if apart.database_url.startswith("sqlite")
        else "postgresql+psycopg://x@127.0.0.1:9/x"
    )
    blind = apart.model_copy(update={"vault_url": away, "owner_vault_url": None})
    app = create_app(blind)
    app.state.builder = BuildsAtOnce(blind, app.state.keyring)
    with Database(blind) as database, TestClient(app) as client:
        there = World(Registry(app, client, database))
        refused = there.staff_a.post("/v1/participants", there.enrolment())
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        there.study, there.study_id, there.site_ids = world.study, world.study_id, world.site_ids
        path = an_extract_of(there)
        assert there.analyst.get(path).json()["status"] == "ready"


def an_extract_of(world: World) -> str:
    """The path of an extract of those who are enrolled already."""
    body = {"study": world.study, "purpose": "A question", "profile": "pseudonymised", "agreement": "DUA-2026-014"}
    path: str = world.analyst.post("/v1/extracts", body).headers["Location"]
    assert world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed"}).status_code == 201
    return path


def test_an_enrolment_whose_commit_failed_is_taken_up_by_the_next_attempt(world: World) -> None:
    body = world.enrolment()
    with failing_commit(world.registry.served, done=False) as hits:
        assert world.staff_a.post("/v1/participants", body).status_code == 503
    assert hits.count == 1
    reserved = labels_apart(world).keys()
    with world.registry.database.write() as session, vault_care.whole_vault(session):
        assert session.exec(select(func.count()).where(col(Participant.pid).in_(reserved))).one() == len(reserved) - 1
    pid = world.staff_a.post("/v1/participants", body).json()["pid"]
    assert without_hyphens(pid) in reserved
    assert labels_apart(world).keys() == reserved


def test_a_label_whose_correction_failed_half_way_is_corrected_by_the_next_attempt(world: World) -> None:
    """The vault's commit was first; the trail hears of it with the second."""
    pid, body = world.enrolled(), world.enrolment()
    change = {"reason": "mistyped", "site_local_id": body["site_local_id"]}
    seen = world.staff_a.get(f"/v1/participants/{pid}").headers["ETag"]
    with failing_commit(world.registry.served, done=False) as hits:
        assert world.staff_a.patch(f"/v1/participants/{pid}", change, seen).status_code == 503
    assert (hits.count, found(world, body)) == (1, 200)
    assert world.staff_a.patch(f"/v1/participants/{pid}", change, seen).status_code == 200
    told = world.monitor.get("/v1/audit-entries", participant=pid, action="vault:relabelled").json()["items"]
    assert [one["reason"] for one in told] == ["mistyped"]
    assert without_hyphens(pid) in labels_apart(world)


def test_what_attempts_under_a_reserved_pid_left_gives_way(world: World) -> None:
    block = world.staff_a.post("/v1/pid-reservations", {"study": world.study, "site": "A", "count": 1}).json()
    mistyped, body = world.enrolment(pid=block["pids"][0]), world.enrolment(pid=block["pids"][0])
    with failing_commit(world.registry.served, done=False) as hits:
        assert world.staff_a.post("/v1/participants", mistyped).status_code == 503
    assert hits.count == 1
    assert world.staff_a.post("/v1/participants", body).status_code == 201
    asked = {name: body[name] for name in ("study", "site", "site_local_id")}
    assert world.staff_a.post("/v1/participants/lookup", asked).json()["pid"] == block["pids"][0]
    gone = world.staff_a.post("/v1/participants/lookup", {**asked, "site_local_id": mistyped["site_local_id"]})
    assert gone.status_code == 404


def test_a_label_that_broke_off_under_another_pid_waits_for_its_hour(world: World) -> None:
    block = world.staff_a.post("/v1/pid-reservations", {"study": world.study, "site": "A", "count": 1}).json()
    body = world.enrolment()
    with failing_commit(world.registry.served, done=False):
        assert world.staff_a.post("/v1/participants", body).status_code == 503
    refused = world.staff_a.post("/v1/participants", {**body, "pid": block["pids"][0]})
    assert (refused.status_code, refused.json()["code"]) == (503, "enrolment_under_way")
    assert refused.headers["Retry-After"] == "60"
    with world.registry.database.write() as session, vault_care.whole_vault(session) as own:
        own.execute(update(VaultIdentity).values(created_at=now() - timedelta(hours=2)))
    enrolled = world.staff_a.post("/v1/participants", {**body, "pid": block["pids"][0]})
    assert (enrolled.status_code, enrolled.json()["pid"]) == (201, block["pids"][0])


def test_an_old_reservation_is_deleted_and_a_participant_without_a_label_is_reported(world: World) -> None:
    database, nobody = world.registry.database, world.enrolled()
    with failing_commit(world.registry.served, done=False):
        world.staff_a.post("/v1/participants", world.enrolment())
    before = vault_care.check(database, sweep=True)
    assert before.reservations == 0, "it is an attempt of this hour"
    with database.write() as session, vault_care.whole_vault(session) as own:
        own.execute(update(VaultIdentity).values(created_at=now() - timedelta(hours=2)))
    assert vault_care.check(database, sweep=True).reservations == 1
    erased(world, world.enrolled())
    with database.write() as session, vault_care.whole_vault(session) as own:
        own.execute(delete(VaultIdentity).where(col(VaultIdentity.pid) == without_hyphens(nobody)))
    after = vault_care.check(database, sweep=False)
    assert (after.labels, after.reservations, after.nameless) == (before.labels - 2, 0, 1)


def a_reservation_of_long_ago(world: World) -> Any:
    """The body of an enrolment that broke off."""
    body = world.enrolment()
    with failing_commit(world.registry.served, done=False):
        assert world.staff_a.post("/v1/participants", body).status_code == 503
    with world.registry.database.write() as session, vault_care.whole_vault(session) as own:
        own.execute(update(VaultIdentity).values(created_at=now() - timedelta(hours=2)))
    return body


def found(world: World, body: Any) -> int:
    asked = {name: body[name] for name in ("study", "site", "site_local_id")}
    return world.staff_a.post("/v1/participants/lookup", asked).status_code


def test_a_sweep_leaves_the_label_of_somebody_who_is_being_enrolled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, store = a_reservation_of_long_ago(world), enrolment._with_consent_and_screening
    sweep = Thread(target=vault_care.check, args=[world.registry.database], kwargs={"sweep": True})

    def swept_meanwhile(*given: Any) -> Any:
        sweep.start()
        sweep.join(1)  # it may have to wait until the enrolment is committed
        return store(*given)

    monkeypatch.setattr(enrolment, "_with_consent_and_screening", swept_meanwhile)
    assert world.staff_a.post("/v1/participants", body).status_code == 201
    sweep.join()
    assert found(world, body) == 200


def test_an_enrolment_while_its_old_reservation_is_deleted_stores_the_label_again(world: World) -> None:
    body, answers = a_reservation_of_long_ago(world), []
    enrolled = Thread(target=lambda: answers.append(world.staff_a.post("/v1/participants", body).status_code))
    with world.registry.database.write() as session, vault_care.whole_vault(session) as own:
        own.execute(delete(VaultIdentity).where(col(VaultIdentity.site_id) == world.site_ids["A"]))
        enrolled.start()
        enrolled.join(1)
    enrolled.join()
    assert (answers, found(world, body)) == ([201], 200)


def test_a_dry_run_and_a_refused_batch_leave_nothing_in_the_vault(world: World) -> None:
    before = labels_apart(world).keys()
    assert world.staff_a.post("/v1/participants?dry_run=true", world.enrolment()).status_code == 200
    lines = [{"key": f"k{number}", "record": world.enrolment()} for number in range(2)]
    lines[1]["record"]["sex"] = "?"  # type: ignore[index]
    answer = world.staff_a.post("/v1/participants/bulk?atomic=true", lines)
    assert "created" not in answer.text
    assert labels_apart(world).keys() == before


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "its commit fails"])
def test_an_upload_that_an_equal_one_overtakes_is_replayed_or_takes_up_what_that_one_reserved(
    world: World, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """Of one enrolment, as uploads of several at a site come one after the other."""
    lines = [{"key": str(uuid4()), "record": world.enrolment()}]
    look, looked = vault.find_pid, Event()

    def upload() -> Response:
        return world.staff_a.post("/v1/participants/bulk?atomic=true", lines)

    def equal_one() -> None:
        with nullcontext() if stored else failing_commit(world.registry.served, done=False):
            assert upload().is_success is stored

    def late(*given: Any) -> str | None:
        first, found = not looked.is_set(), look(*given)
        looked.set()
        if first and not world.on_sqlite:  # which has one writer: there it comes before
            equal_one()
        return found

    monkeypatch.setattr(vault, "find_pid", late)
    if world.on_sqlite:
        equal_one()
    told = [json.loads(one)["result"] for one in upload().text.splitlines()]
    assert told == ["replayed" if stored else "created"]
    assert len([row for row in labels_apart(world).values() if row.site_id == world.site_ids["A"]]) == 1


def test_an_erasure_outlives_a_restore_of_the_database(apart: Settings, world: World) -> None:
    pid, other = world.enrolled(), world.enrolled()
    backup = labels_apart(world)[without_hyphens(pid)].model_dump()
    erased(world, pid)
    assert pid not in apart.erasures.read_text()
    with world.registry.database.write() as session, vault_care.whole_vault(session) as own:
        own.add(VaultIdentity(**backup))
    assert erasure.replay(world.registry.database, journal_of(apart)) == (1, 0)
    assert without_hyphens(pid) not in labels_apart(world)
    assert without_hyphens(other) in labels_apart(world)
    assert erasure.replay(world.registry.database, journal_of(apart)) == (0, 0)
    entries = world.monitor.get("/v1/audit-entries", action="vault:erased").json()["items"]
    assert [entry["actor"] for entry in entries if entry["reason"] == erasure.WHY] == ["system"]


@pytest.mark.parametrize("vault_too", [True, False], ids=["with the vault", "without the vault"])
def test_an_erasure_outlives_a_restore_of_what_an_app_had_kept(apart: Settings, world: World, vault_too: bool) -> None:
    body = world.enrolment()
    pid = world.staff_a.post("/v1/participants", body).json()["pid"]
    again = act("/v1/participants", body)
    sync(world.staff_a, again)
    database, mine = world.registry.database, col(SyncOperation.id) == UUID(again["id"])
    with database.read() as session:
        refused = values(session.exec(select(SyncOperation).where(mine)).one())
    backup = labels_apart(world)[without_hyphens(pid)].model_dump()
    erased(world, pid)
    with database.write() as session, vault_care.whole_vault(session) as own:
        session.execute(update(SyncOperation).where(mine).values(refused))
        if vault_too:
            own.add(VaultIdentity(**backup))
    erasure.replay(database, journal_of(apart))
    assert sync(world.staff_a, again)[again["id"]]["result"] == "discarded"
    assert body["site_local_id"] not in world.staff_a.get("/v1/sync").text


def test_a_dry_run_of_an_erasure_is_not_in_the_journal(apart: Settings, world: World) -> None:
    pid = world.enrolled()
    body = {**WITHDRAWAL, "scope": "identity"}
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals?dry_run=true", body).status_code == 200
    assert journal_of(apart).person(without_hyphens(pid)) not in noted(apart.erasures).persons


def test_nothing_is_erased_where_the_journal_cannot_be_written(apart: Settings, world: World) -> None:
    pid = world.enrolled()
    world.registry.app.state.erasures = ErasureJournal(apart.key_file / "no-folder", Keyring(KEYS))
    body = {**WITHDRAWAL, "scope": "identity"}
    refused = world.staff_a.post(f"/v1/participants/{pid}/withdrawals", body)
    assert (refused.status_code, refused.json()["code"]) == (503, "erasure_journal_unavailable")
    assert without_hyphens(pid) in labels_apart(world)
    assert world.staff_a.get(f"/v1/participants/{pid}/consents").json()["withdrawals"] == []


def test_labels_are_wrapped_anew_before_their_old_key_goes(world: World) -> None:
    theirs, database = label(), world.registry.database
    pid = world.enrolled(site_local_id=theirs)
    before = labels_apart(world)[without_hyphens(pid)]
    file: KeyFile = rotated(rotated(KEYS, "kek", START), "kek", LATER)
    keyring = Keyring(file)
    assert vault_care.needs(database, before.kek_id)
    assert vault_care.rewrap(database, keyring) == len(labels_apart(world))
    after = labels_apart(world)[without_hyphens(pid)]
    assert (after.kek_id, after.ciphertext) == (keyring.active_kek, before.ciphertext)
    assert not vault_care.needs(database, before.kek_id)
    assert reveal_label(Keyring(without_kek(file, before.kek_id, LONG_AFTER)), after) == theirs
    assert vault_care.rewrap(database, keyring) == 0
    with pytest.raises(RotationRefused, match="enrolment under way"):
        without_kek(file, before.kek_id, LONG_AFTER - timedelta(seconds=1))
    with pytest.raises(RotationRefused, match="active or next"):
        without_kek(file, keyring.active_kek, LONG_AFTER)
    with pytest.raises(RotationRefused, match="no wrapping key"):
        without_kek(file, "unknown", LONG_AFTER)
    assert vault_care.rewrap(database, Keyring(file.model_copy(update={"kek": file.kek[::-1]}))) > 0, "for the others"


def test_whether_a_label_needs_a_key_is_seen_while_a_site_enrols(world: World) -> None:
    pid, database = world.enrolled(), world.registry.database
    kek_id = labels_apart(world)[without_hyphens(pid)].kek_id
    with database.write() as session:
        vault_session(session).execute(text("SELECT 1"))
        assert vault_care.needs(database, kek_id)
        assert not vault_care.needs(database, "unknown")


def test_labels_move_into_a_vault_of_its_own(apart: Settings, world: World) -> None:
    together = apart.model_copy(update={"vault_url": None, "owner_vault_url": None})
    theirs, app = label(), create_app(together)
    app.state.builder = BuildsAtOnce(together, app.state.keyring)
    with Database(together) as database, TestClient(app) as client:
        old = World(Registry(app, client, database))
        pid = without_hyphens(old.enrolled(site_local_id=theirs))
        assert labels(database).keys() == {pid}
        assert vault_care.move(world.registry.database) == 1
        assert reveal_label(Keyring(KEYS), labels_apart(world)[pid]) == theirs
        assert labels(database) == {}
    assert vault_care.move(world.registry.database) == 0
