"""Built extracts: what they hold, what lies in the database, and rows that are the same when built again."""

import zlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from sqlmodel import select

from app.database import Database
from app.models.base import now
from app.models.extract import Extract, ExtractChunk, ExtractFile
from app.security.keys import Keyring, new_key_file
from app.security.sealing import SealBroken
from app.services.extracts import building, chunks, extract_csv, extract_rows
from app.services.extracts.builder import Builder
from tests.builds import approved_of_several, built, built_again, key, status
from tests.hot_requests import statements
from tests.world import World, madrs, protocol_definition


def test_an_extract_that_is_being_built_has_no_files(world: World, waiting: str) -> None:
    answer = world.analyst.get(waiting)
    read = answer.json()
    assert (read["status"], read["files"], read["manifest"], read["built_rows"]) == ("building", [], None, 0)
    assert answer.headers["Retry-After"] == "2"
    assert world.analyst.get(f"{waiting}/files/visits.csv").status_code == 404
    assert built(world)
    assert (status(world, waiting), world.analyst.get(waiting).json()["built_rows"]) == ("ready", None)
    assert "Retry-After" not in world.analyst.get(waiting).headers


def test_the_thread_of_a_worker_builds_an_extract_when_woken(world: World, waiting: str) -> None:
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
    monkeypatch.setattr(chunks, "SIZE", 1000)
    assert built(world)
    path = f"{waiting}/files/codebook.json"
    whole = world.analyst.get(path).content
    assert len(whole) > 10_000
    for start, end in ((0, 999), (999, 1000), (1000, 1000), (2500, 7310), (len(whole) - 1500, len(whole) - 1)):
        part = world.analyst.raw("GET", path, b"", Range=f"bytes={start}-{end}")
        assert (part.status_code, part.content) == (206, whole[start : end + 1])


def test_a_download_breaks_off_when_the_extract_is_revoked(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "SIZE", 1000)
    assert built(world)
    with world.registry.served.read() as session:
        mine = select(ExtractFile).where(ExtractFile.extract_id == key(waiting))
        file = session.exec(mine.where(ExtractFile.name == "codebook.json")).one()
    keyring = world.registry.app.state.keyring
    place = chunks.file_of(keyring, key(waiting), file.build, file.name, file.sealed_key)
    parts = chunks.read(world.registry.served, place, 0, file.bytes)
    next(parts)
    assert world.custodian.post(f"{waiting}/revocation", {"reason": "shared with others"}).is_success
    with pytest.raises(chunks.ChunkGone):
        list(parts)


def test_the_database_has_nothing_of_a_file_in_clear(world: World, waiting: str) -> None:
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
    places = {one.name: chunks.file_of(keyring, key(waiting), one.build, one.name, one.sealed_key) for one in files}
    readme, other = kept["README.txt"], places["manifest.json"]
    assert zlib.decompress(places["README.txt"].decrypted(0, readme.content), -zlib.MAX_WBITS) == text
    for wrong, start in ((other, 0), (other._replace(name="README.txt"), 0), (places["README.txt"], 1)):
        with pytest.raises(InvalidTag):
            wrong.decrypted(start, readme.content)
    with pytest.raises(SealBroken):
        chunks.file_of(Keyring(new_key_file()), key(waiting), files[0].build, files[0].name, files[0].sealed_key)


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


def test_a_protocol_may_plan_more_visits_than_sqlite_joins_in_one_statement(world: World) -> None:
    plan = protocol_definition()
    last = next(visit for visit in reversed(plan["visits"]) if visit.get("anchor"))
    plan["visits"] += [{**last, "code": f"M{number}"} for number in range(500)]
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", {**plan, "version": "long"}).status_code == 201
    world.uploaded("participants", [world.enrolment(protocol_version="long") for _ in range(12)])
    asked = world.analyst.post("/v1/extracts", {"study": world.study, "purpose": "Whether it is built"})
    path = asked.headers["Location"]
    assert world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed"}).status_code == 201
    assert status(world, path) == "ready"
