"""Builds of extracts: one at a time, taken over when a worker dies, never half there for anybody."""

import time
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidTag
from sqlalchemy.exc import OperationalError
from sqlmodel import col, delete, select, update

from app.database import Database
from app.models.base import now
from app.models.extract import Extract, ExtractBuild, ExtractChunk, ExtractFile
from app.security.keys import Keyring, new_key_file
from app.security.sealing import SealBroken
from app.services import building, chunks, extract_csv, extract_rows
from app.services.builder import Builder
from tests.conftest import BuildsAtOnce
from tests.hot_requests import statements
from tests.route_cases import an_extract, extract_of
from tests.world import World, madrs


class Killed(BaseException):
    """The worker is gone, without a chance to say so."""


@pytest.fixture
def waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of an approved extract that nobody builds yet."""
    monkeypatch.setattr(BuildsAtOnce, "wake", lambda self: None)
    return an_extract(world, approved=True)


def key(path: str) -> UUID:
    return UUID(path.rpartition("/")[2])


def built(world: World, stopping: Callable[[], bool] = lambda: False) -> bool:
    """A worker looks for something to build, with connections of its own, and builds it."""
    app = world.registry.app
    with Database(app.state.settings, for_server=True) as database:
        return building.build_next(database, app.state.keyring, stopping)


def status(world: World, path: str) -> str:
    found: str = world.analyst.get(path).json()["status"]
    return found


def lapse(world: World, path: str) -> None:
    """The lease of this extract runs out; those that other tests left hold on."""
    mine = update(ExtractBuild).where(col(ExtractBuild.extract_id) == key(path))
    with world.registry.database.write() as session:
        session.execute(mine.values(leased_until=now() - timedelta(seconds=1)))


def dies_after(monkeypatch: pytest.MonkeyPatch, tables: int, fault: type[BaseException] = Killed) -> None:
    """The worker ends when it has written so many tables."""
    written, count = extract_csv.parts, iter(range(tables))

    def parts(*asked: Any) -> Iterator[bytes]:
        yield from written(*asked)
        if next(count, None) is None:
            raise fault

    monkeypatch.setattr(extract_csv, "parts", parts)


def test_while_it_is_built_it_says_so_and_shows_nothing(world: World, waiting: str) -> None:
    answer = world.analyst.get(waiting)
    read = answer.json()
    assert (read["status"], read["files"], read["manifest"], read["built_rows"]) == ("building", [], None, 0)
    assert answer.headers["Retry-After"] == "2"
    assert world.analyst.get(f"{waiting}/files/visits.csv").status_code == 404
    assert built(world)
    assert (status(world, waiting), world.analyst.get(waiting).json()["built_rows"]) == ("ready", None)
    assert "Retry-After" not in world.analyst.get(waiting).headers


def test_a_build_whose_worker_was_killed_is_taken_over_and_leaves_nothing(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        dies_after(patch, 2)
        with pytest.raises(Killed):
            built(world)
    assert status(world, waiting) == "building"
    assert not built(world), "the lease still holds"
    lapse(world, waiting)
    assert built(world)
    assert status(world, waiting) == "ready"
    with world.registry.database.read() as session:
        builds = session.exec(
            select(ExtractChunk.build).where(ExtractChunk.extract_id == key(waiting)).distinct()
        ).all()
        files = session.exec(select(ExtractFile.build).where(ExtractFile.extract_id == key(waiting)).distinct()).all()
        assert session.exec(select(ExtractBuild).where(ExtractBuild.extract_id == key(waiting))).all() == []
    assert builds == files
    assert len(files) == 1


def test_a_second_attempt_writes_the_same_bytes(world: World, waiting: str) -> None:
    """All but the manifest's own names: whoever began a download goes on with what another worker wrote."""
    assert built(world)
    first = {file["name"]: file["sha256"] for file in world.analyst.get(waiting).json()["files"]}
    with world.registry.database.write() as session:
        row = session.get_one(Extract, key(waiting))
        row.status = building.ExtractStatus.building
        approved = {"created_at": None, "subjects": None, "levels": None, **building.json.loads(row.manifest or "")}
        row.manifest = building.canonical_json({**approved, "risk": None})
        for table in (ExtractFile, ExtractChunk):
            session.execute(delete(table).where(col(table.extract_id) == row.id))
        session.add(ExtractBuild(extract_id=row.id))
    assert built(world)
    again = {file["name"]: file["sha256"] for file in world.analyst.get(waiting).json()["files"]}
    assert again == first


def test_a_worker_that_lost_its_lease_stops_and_changes_nothing(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = extract_csv.parts
    taken: list[bool] = []

    def parts(*asked: Any) -> Iterator[bytes]:
        yield from written(*asked)
        if not taken:
            taken.append(True)
            lapse(world, waiting)
            assert built(world), "another worker builds it meanwhile"

    monkeypatch.setattr(extract_csv, "parts", parts)
    assert built(world)
    read = world.analyst.get(waiting).json()
    assert read["status"] == "ready"
    sizes = {file["name"]: file["bytes"] for file in read["files"]}
    for name, size in sizes.items():
        assert len(world.analyst.get(f"{waiting}/files/{name}").content) == size


def test_a_worker_keeps_its_lease_while_rows_take_longer_than_it(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two workers would take a large extract from each other for good."""
    monkeypatch.setattr(building, "LEASE", timedelta(seconds=1))
    written = extract_csv.parts
    others: list[bool] = []

    def parts(*asked: Any) -> Iterator[bytes]:
        if not others:
            time.sleep(2)
            others.append(built(world))
        yield from written(*asked)

    monkeypatch.setattr(extract_csv, "parts", parts)
    assert built(world)
    assert others == [False]
    with world.registry.database.read() as session:
        assert session.exec(select(ExtractBuild).where(ExtractBuild.extract_id == key(waiting))).all() == []
    assert status(world, waiting) == "ready"


def test_many_workers_build_an_extract_once(world: World, waiting: str) -> None:
    claims: list[Any] = []
    threads = [Thread(target=lambda: claims.append(building._claimed(world.registry.served, now()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mine = [claim for claim in claims if claim is not None and claim.extract_id == key(waiting)]
    assert len(mine) == 1
    lapse(world, waiting)
    assert built(world), "else its lease ends during a later test, which would build this one"


def test_an_extract_that_cannot_be_built_is_given_up_and_nothing_left(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies_after(monkeypatch, 0, ValueError)
    for _ in range(building.ATTEMPTS):
        assert status(world, waiting) == "building"
        assert built(world)
    assert status(world, waiting) == "failed"
    assert not built(world)
    with world.registry.database.read() as session:
        assert session.exec(select(ExtractChunk).where(ExtractChunk.extract_id == key(waiting))).all() == []


def test_a_database_that_goes_away_is_not_the_extracts_fault(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(OperationalError):
        def __init__(self) -> None:
            super().__init__("", {}, Exception())

    with monkeypatch.context() as patch:
        dies_after(patch, 1, Away)
        for _ in range(building.ATTEMPTS + 1):
            with pytest.raises(Away):
                built(world)
            lapse(world, waiting)
    assert status(world, waiting) == "building"
    assert built(world)
    assert status(world, waiting) == "ready"


def test_a_worker_that_stops_hands_over_at_once(world: World, waiting: str) -> None:
    assert built(world, lambda: True)
    assert status(world, waiting) == "building"
    assert built(world)
    assert status(world, waiting) == "ready"


def test_a_worker_that_stops_while_rows_are_read_lets_go_of_its_connection(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL still sends the rows of a large table then."""
    path = approved_of_several(world)
    assert built(world)
    written, read = extract_csv.parts, []

    def parts(*asked: Any) -> Iterator[bytes]:
        for part in written(*asked):
            read.append(part)
            yield part

    with monkeypatch.context() as patch:
        patch.setattr(extract_csv, "parts", parts)
        for module, name, value in ((chunks, "SIZE", 8), (chunks, "AHEAD", 1), (extract_csv, "_PART", 8)):
            patch.setattr(module, name, value)
        worker = Thread(target=built, args=(world, lambda: len(read) > 2), daemon=True)  # the header, and a row
        worker.start()
        worker.join(30)
    assert not worker.is_alive()
    assert status(world, path) == "building"
    assert built(world)
    assert status(world, path) == "ready"


def test_the_thread_of_a_worker_builds_what_it_is_woken_for(world: World, waiting: str) -> None:
    builder = Builder(world.registry.app.state.settings, world.registry.app.state.keyring)
    builder.start()
    try:
        deadline = now() + timedelta(seconds=20)
        while status(world, waiting) == "building" and now() < deadline:
            builder.wake()
    finally:
        builder.stop()
    assert status(world, waiting) == "ready"


def test_a_file_of_many_chunks_is_read_from_any_byte(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "SIZE", 100)
    assert built(world)
    path = f"{waiting}/files/codebook.json"
    whole = world.analyst.get(path).content
    assert len(whole) > 1000
    for start, end in ((0, 99), (99, 100), (100, 100), (250, 731), (len(whole) - 150, len(whole) - 1)):
        part = world.analyst.raw("GET", path, b"", Range=f"bytes={start}-{end}")
        assert (part.status_code, part.content) == (206, whole[start : end + 1])


def test_a_download_breaks_off_when_the_extract_is_taken_back(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "SIZE", 100)
    assert built(world)
    with world.registry.served.read() as session:
        file = session.exec(select(ExtractFile).where(ExtractFile.extract_id == key(waiting))).first()
    assert file is not None
    keyring = world.registry.app.state.keyring
    place = chunks.place_of(keyring, key(waiting), file.build, file.name, file.sealed_key)
    parts = chunks.read(world.registry.served, place, 0, file.bytes)
    next(parts)
    assert world.custodian.post(f"{waiting}/revocation", {"reason": "shared with others"}).is_success
    with pytest.raises(chunks.ChunkGone):
        list(parts)


def test_what_lies_in_the_database_shows_nothing_of_a_file(world: World, waiting: str) -> None:
    assert built(world)
    text = world.analyst.get(f"{waiting}/files/README.txt").content
    with world.registry.database.read() as session:
        mine = select(ExtractChunk).where(ExtractChunk.extract_id == key(waiting))
        kept = {row.name: row for row in session.exec(mine)}
        files = session.exec(select(ExtractFile).where(ExtractFile.extract_id == key(waiting))).all()
    assert len({file.sealed_key for file in files}) == len(files)
    words = {word for word in text.split() if len(word) > 5}  # shorter ones come by chance in random bytes
    for row in kept.values():
        assert not any(word in row.content for word in (b"subject", b"Extract", *words))
    keyring = world.registry.app.state.keyring
    places = {one.name: chunks.place_of(keyring, key(waiting), one.build, one.name, one.sealed_key) for one in files}
    readme, other = kept["README.txt"], places["manifest.json"]
    assert zlib.decompress(places["README.txt"].unlocked(0, readme.content), -zlib.MAX_WBITS) == text
    for wrong, start in ((other, 0), (other._replace(name="README.txt"), 0), (places["README.txt"], 1)):
        with pytest.raises(InvalidTag):
            wrong.unlocked(start, readme.content)
    with pytest.raises(SealBroken):
        chunks.place_of(Keyring(new_key_file()), key(waiting), files[0].build, files[0].name, files[0].sealed_key)


def approved_of_several(world: World) -> str:
    """The path of an approved extract of five people with a score each, and of one with none."""
    for score in range(5):
        visit = world.visit(world.enrolled(), "UNS", "2025-02-01", outcomes=[madrs(score)])
        assert world.staff_a.post("/v1/visits", visit).status_code == 201
    return extract_of(world, approved=True)


def built_again(world: World, path: str) -> str | None:
    with world.registry.served.read() as session:
        extract = session.get_one(Extract, key(path))
    return building.differing(world.registry.served, extract)


@pytest.mark.parametrize("later", [False, True], ids=["nothing later", "something later"])
def test_an_extract_read_in_many_stretches_has_the_same_rows(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    """SQLite reads it so, some people at a time and several at once, while nothing was written after its moment; each
    stretch is one person here. What was written later is not in it."""
    path = approved_of_several(world)
    if later:
        assert world.staff_a.post("/v1/visits", world.visit(world.enrolled(), "UNS", outcomes=[madrs(6)])).is_success
    with monkeypatch.context() as patch:
        patch.setattr(extract_rows, "STRETCH", 1)
        assert built(world)
        assert built(world)
    lines = world.analyst.get(f"{path}/files/outcomes.csv").text.splitlines()
    assert len(lines) == 6
    assert lines[1:] == sorted(lines[1:])
    assert built_again(world, path) == building.SAME
    assert world.staff_a.post("/v1/visits", world.visit(world.enrolled(), "UNS", outcomes=[madrs(1)])).is_success
    assert built_again(world, path) == building.SAME


def test_one_connection_is_enough_to_build_the_rows_again_and_holds_no_table_whole(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = approved_of_several(world)
    assert built(world)
    assert built(world)
    monkeypatch.setattr(extract_rows, "STRETCH", 2)
    with world.registry.served.read() as session:
        extract = session.get_one(Extract, key(path))
    written, pieces = extract_csv.parts, []

    def parts(*asked: Any) -> Iterator[bytes]:
        got = list(written(*asked))
        pieces.append(len(got))
        yield from got

    monkeypatch.setattr(extract_csv, "parts", parts)
    settings = world.registry.app.state.settings.model_copy(update={"pool_size": 1})
    with Database(settings, for_server=True) as alone:
        assert building.differing(alone, extract) == building.SAME
    assert pieces[0] == (1 + 3 if alone.is_sqlite else 1 + 1)  # the header; of six people two at a time


def test_no_table_is_read_whole_for_some_people_when_something_was_written_later(world: World, waiting: str) -> None:
    """What then stands in front of the tables has no index of its own, and SQLite finds each person by the tables'."""
    path = approved_of_several(world)
    assert world.staff_a.post("/v1/visits", world.visit(world.enrolled(), "UNS", outcomes=[madrs(6)])).is_success
    assert built(world)
    assert built(world)
    database, plans = world.registry.served, []

    def look(cursor: Any, statement: str, given: Any) -> None:
        if database.is_sqlite and "group_concat" in statement:
            plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)
            plans.append([does for *_, does in plan if " main." in does])

    with statements(database, look):
        assert built_again(world, path) == building.SAME
    assert len(plans) == (4 if database.is_sqlite else 0)
    for plan in plans:
        assert plan, "nothing stands in front of it"
        for does in plan:
            assert does.startswith("SEARCH"), does
            assert not does.endswith("(site_id=?)"), does
