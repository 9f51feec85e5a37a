"""Commands and settings of the vault by which labels could be lost are refused or reported."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import make_url

from app import schema
from app.database import Database
from app.database_role import SecondWallMissing, require_vault_wall
from app.main import create_app
from app.models.participant import VaultIdentity
from app.privacy.erasure_journal import ErasureJournal, noted
from app.security.keys import load_keyring, new_key_file, read_key_file, write_key_file
from app.security.rotation import replace_key_file, rotated
from app.services.operations import vault_care
from app.settings import Settings
from tests.migrated import migrated_database
from tests.postgres import as_server, settings_of
from tests.test_backups import cli
from tests.test_key_rotation import LATER, START
from tests.test_vault import erased, labels
from tests.world import Registry, World


@pytest.fixture(params=("sqlite", "postgresql"))
def together(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a registry that keeps its labels with the rest."""
    write_key_file(tmp_path / "keys.json", new_key_file(demo=True))
    server = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with migrated_database(server, tmp_path / "main.db") as url:
        settings = settings_of(url, tmp_path / "keys.json")
        with Database(settings) as database:
            schema.upgrade(database)
        yield settings


@pytest.fixture
def world(together: Settings) -> Iterator[World]:
    app = create_app(together)
    with Database(together) as database, TestClient(app) as client:
        yield World(Registry(app, client, database))


def with_vault_at(settings: Settings, url: str) -> Settings:
    owned = settings.owner_database_url is not None
    return settings.model_copy(
        update={"vault_url": as_server(url) if owned else url, "owner_vault_url": url if owned else None}
    )


@pytest.fixture
def apart(together: Settings, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """The same registry with a vault of its own, into which nothing is moved yet."""
    server = None if together.owner_database_url is None else request.getfixturevalue("postgres_url")
    with migrated_database(server, tmp_path / "vault.db") as url:
        settings = with_vault_at(together, url)
        with Database(settings) as database:
            schema.upgrade(database)
        yield settings


def same_database(settings: Settings) -> str:
    """Its address, written in another way."""
    if settings.owner_database_url is None:
        return settings.database_url.replace("/main.db", "/./main.db")
    url = make_url(settings.owner_database_url).update_query_dict({"application_name": "vault"})
    return url.render_as_string(hide_password=False)


def restored(database: Database, label: Mapping[str, Any]) -> None:
    """As from a backup that is older than the erasure."""
    with database.write() as session, vault_care.whole_vault(session):
        session.add(VaultIdentity(**label))


def test_no_label_is_moved_into_the_database_where_it_is(world: World, together: Settings) -> None:
    world.enrolled()
    before = labels(world.registry.database).keys()
    wrong = with_vault_at(together, same_database(together))
    moved = cli(wrong, "vault", "move")
    assert labels(world.registry.database).keys() == before
    for refused in (moved, cli(wrong, "serve")):
        assert (refused.returncode, "leads to the database of REGISTRY_DATABASE_URL" in refused.stderr) == (2, True)
    assert "WRONG  vault apart" in cli(wrong, "doctor").stdout


def test_an_incomplete_journal_is_reported_before_and_after_a_restore(world: World, together: Settings) -> None:
    world.enrolled()
    database = world.registry.database
    (backup,) = (row.model_dump() for row in labels(database).values())
    erased(world, backup["pid"])
    assert cli(together, "vault", "replay").stdout == "0 labels erased again.\n"
    together.erasures.rename(together.erasures.with_suffix(".away"))
    restored(database, backup)
    done = cli(together, "vault", "replay")
    assert (done.returncode, "There is no erasure journal" in done.stdout) == (2, True)
    assert labels(database) == {}, "the trail tells of the erasure too"
    assert "has 1 erasures" in done.stderr
    assert "WRONG  erasures" in cli(together, "doctor").stdout
    together.erasures.write_text("no journal\n")
    assert "1 lines" in cli(together, "vault", "replay").stdout
    assert "WRONG  erasure journal" in cli(together, "doctor").stdout


def test_a_journal_that_is_lost_for_good_is_written_anew_from_the_trail(world: World, together: Settings) -> None:
    """By the user who serves, who has no role but the server's."""
    world.enrolled()
    database, serving = world.registry.database, together.model_copy(update={"owner_database_url": None})
    world.enrolled()
    first, second = (row.model_dump() for row in labels(database).values())
    erased(world, first["pid"])
    together.erasures.unlink()
    erased(world, second["pid"])
    assert "--journal-from-trail" in cli(together, "vault", "replay").stderr
    restored(database, first)
    done = cli(serving, "vault", "replay", "--journal-from-trail")
    assert (done.returncode, "1 erasures noted" in done.stdout) == (0, True), done.stderr
    assert "since the backup" in done.stdout
    assert labels(database) == {}
    journal = ErasureJournal(together.erasures, load_keyring(together))
    assert noted(journal.path) == ({journal.person(one["pid"]) for one in (first, second)}, 0)
    assert cli(together, "vault", "replay").returncode == 0
    assert "ok     erasures" in cli(together, "doctor").stdout


def test_a_missing_wrapping_key_is_reported_and_affects_no_other_label(world: World, together: Settings) -> None:
    world.enrolled()
    ours = read_key_file(together)
    replace_key_file(together, lambda file: rotated(rotated(file, "kek", START), "kek", LATER))
    app = create_app(together)
    with TestClient(app) as client:
        there = World(Registry(app, client, world.registry.database))
        there.enrolled()
    replace_key_file(together, lambda file: file.model_copy(update={"kek": [file.kek[0], *new_key_file().kek]}))
    for command in ("rewrap", "check"):
        done = cli(together, "vault", command)
        assert (done.returncode, "1 labels cannot be opened" in done.stderr) == (2, True)
        assert ours.kek[0].kid in done.stderr
    assert "WRONG  labels" in cli(together, "doctor").stdout
    vault_care.require_own_keys(world.registry.served, load_keyring(together))


def test_rewrap_says_when_the_new_key_is_not_active_yet(together: Settings) -> None:
    for at, told in ((START, True), (LATER, False)):
        replace_key_file(together, lambda file, at=at: rotated(file, "kek", at))  # type: ignore[misc]
        done = cli(together, "vault", "rewrap")
        assert (done.returncode, "registry keys rotate --kind kek" in done.stdout) == (0, told)


def test_another_key_file_is_refused_and_none_is_made_for_a_database_in_use(world: World, together: Settings) -> None:
    world.enrolled()
    together.key_file.unlink()
    made = cli(together, "init")
    assert (made.returncode, together.key_file.exists()) == (2, False)
    assert "Restore it from its copy" in made.stderr
    write_key_file(together.key_file, new_key_file(demo=True))
    refused = cli(together, "serve")
    assert (refused.returncode, "not the key file of this registry" in refused.stderr) == (2, True)
    assert "WRONG  labels" in cli(together, "doctor").stdout


@contextmanager
def at_work(settings: Settings) -> Iterator[World]:
    """A registry whose vault is apart, with people enrolled."""
    app = create_app(settings)
    with Database(settings) as database, TestClient(app) as client:
        world = World(Registry(app, client, database))
        world.enrolled()
        yield world


def test_no_empty_vault_is_made_for_people_whose_labels_were_in_one(apart: Settings) -> None:
    """As where its volume was not mounted: nobody would be found, and everybody enrolled a second time."""
    with at_work(apart) as world:
        erased(world, world.enrolled())
        vault = world.registry.database.vault
        assert vault is not None
        schema.downgrade(vault, "base")
        for command in ("init", "migrate"):
            refused = cli(apart, command)
            assert (refused.returncode, "1 participants" in refused.stderr) == (2, True), refused.stderr
            assert "Bring it back" in refused.stderr
            assert schema.current(vault) is None
        served = cli(apart, "serve")
        assert (served.returncode, "REGISTRY_VAULT_URL" in served.stderr, "init" in served.stderr) == (2, True, False)


def test_a_vault_is_made_for_people_whose_labels_are_still_with_the_rest(
    world: World, together: Settings, apart: Settings
) -> None:
    world.enrolled()
    with Database(apart) as database:
        assert database.vault is not None
        schema.downgrade(database.vault, "base")
    assert cli(apart, "migrate").returncode == 0
    assert "WRONG  people: 1 labels are still in the main database" in cli(apart, "doctor").stdout
    assert cli(apart, "vault", "move").stdout.startswith("1 labels moved")


def test_a_label_that_an_older_backup_brings_back_beside_the_vault_is_erased_again(
    world: World, together: Settings, apart: Settings
) -> None:
    world.enrolled()
    main = world.registry.database
    (backup,) = (row.model_dump() for row in labels(main).values())
    kept = world.enrolled().replace("-", "")
    erased(world, backup["pid"])
    restored(main, backup)
    found = cli(apart, "vault", "check")
    assert (found.returncode, "2 labels are still in the main database" in found.stdout) == (1, True)
    assert cli(apart, "vault", "move").stdout == "1 labels moved, 1 erased again.\n"
    restored(main, backup)
    assert cli(apart, "vault", "replay").stdout == "1 labels erased again.\n"
    with Database(apart) as database:
        assert (labels(database), labels(database.vault).keys()) == ({}, {kept})
    assert cli(apart, "vault", "check").returncode == 0
    assert "WRONG" not in cli(apart, "doctor").stdout


def test_production_asks_for_the_second_wall_of_the_vault_too(apart: Settings) -> None:
    if apart.owner_vault_url is None:
        pytest.skip("SQLite has no roles")
    production = apart.model_copy(update={"environment": "production"})
    with Database(production, for_server=True) as served:
        require_vault_wall(served, production)
    mighty = production.model_copy(update={"vault_url": apart.owner_vault_url})
    with Database(mighty, for_server=True) as served, pytest.raises(SecondWallMissing, match="REGISTRY_VAULT_URL"):
        require_vault_wall(served, mighty)
