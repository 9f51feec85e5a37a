"""Builds of extracts that end too soon: one at a time, taken over when a worker dies, never half there for anybody."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, col, delete, select, update

from app.models.base import now
from app.models.extract import Extract, ExtractBuild, ExtractChunk, ExtractFile, ExtractStatus
from app.models.notification import Notification
from app.models.outcome import Outcome, OutcomeScore
from app.privacy import bundle
from app.services.extracts import building, chunks, extract_csv, extract_ends
from tests.builds import Killed, approved_of_several, built, dies_after, key, lapse, status
from tests.test_bulk_races import until_somebody_waits
from tests.world import World


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


def test_an_extract_is_revoked_while_it_is_being_built(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = extract_csv.parts

    def parts(*asked: Any) -> Iterator[bytes]:
        yield from written(*asked)
        if status(world, waiting) == "building":
            assert world.custodian.post(f"{waiting}/revocation", {"reason": "wrong study"}).is_success

    monkeypatch.setattr(extract_csv, "parts", parts)
    assert built(world)
    read = world.analyst.get(waiting).json()
    assert (read["status"], read["files"], read["manifest"]) == ("revoked", [], None)
    refused = world.analyst.get(f"{waiting}/files/participants.csv")
    assert (refused.status_code, refused.json()["code"]) == (410, "extract_revoked")
    with world.registry.database.read() as session:
        for table in (ExtractBuild, ExtractChunk):
            assert session.exec(select(table).where(table.extract_id == key(waiting))).all() == []


def test_an_extract_is_revoked_while_a_chunk_is_being_stored(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker holds the lease and then asks for the extract, to which its chunk refers; a revocation holds the
    extract and then asks for the lease."""
    kept, answers = building._Progress.kept, list[int]()

    def revoke() -> None:
        answers.append(world.custodian.post(f"{waiting}/revocation", {"reason": "wrong study"}).status_code)

    revoking = Thread(target=revoke)

    def slowly(progress: building._Progress, session: Session) -> None:
        kept(progress, session)
        if not revoking.ident:
            revoking.start()
            if not world.on_sqlite:
                until_somebody_waits(world)

    monkeypatch.setattr(building._Progress, "kept", slowly)
    assert built(world)
    revoking.join()
    assert (answers, status(world, waiting)) == ([201], "revoked")
    with world.registry.database.read() as session:
        for table in (ExtractBuild, ExtractChunk):
            assert session.exec(select(table).where(table.extract_id == key(waiting))).all() == []


def test_an_approval_that_waited_beyond_its_days_expires_without_a_notification(world: World, waiting: str) -> None:
    with world.registry.database.write() as session:
        session.get_one(Extract, key(waiting)).expires_at = now() - timedelta(seconds=1)
    assert built(world)
    assert status(world, waiting) == "expired"
    with world.registry.database.read() as session:
        told = session.exec(select(Notification).where(Notification.subject_id == key(waiting))).all()
    assert told == []


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


def test_what_was_given_up_is_built_once_its_cause_is_gone(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up(world, waiting, monkeypatch)
    assert key(waiting) in building.queue_again(world.registry.served)
    assert status(world, waiting) == "building"
    assert built(world)
    assert status(world, waiting) == "ready"


def test_what_was_given_up_is_not_tried_again_after_its_time_and_then_expires(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up(world, waiting, monkeypatch)
    with world.registry.database.write() as session:
        session.get_one(Extract, key(waiting)).expires_at = now() - timedelta(seconds=1)
    assert key(waiting) not in building.queue_again(world.registry.served)
    assert status(world, waiting) == "failed"
    extract_ends.expire(world.registry.served)
    assert status(world, waiting) == "expired"


def test_the_ledger_counts_what_was_given_up_while_it_may_still_be_built(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one newcomer could be read from two extracts."""
    world.uploaded("participants", [world.enrolment() for _ in range(12)])
    first, later = (
        world.analyst.post("/v1/extracts", {"study": world.study, "purpose": f"Question {number}"}).headers["Location"]
        for number in (1, 2)
    )
    verdict = {"decision": "approve", "reason": "agreed"}
    assert world.custodian.post(f"{first}/approval", verdict).status_code == 201
    assert built(world)  # the one that waits already
    given_up(world, first, monkeypatch)
    world.enrolled()
    refused = world.custodian.post(f"{later}/approval", verdict)
    assert (refused.status_code, refused.json()["code"]) == (409, "differencing_risk")
    assert world.custodian.post(f"{first}/revocation", {"reason": "cannot be built"}).status_code == 201
    assert world.custodian.post(f"{later}/approval?dry_run=true", verdict).status_code == 200


def test_what_was_approved_by_other_rules_is_not_built_by_todays(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.registry.database.read() as session:
        profile = building.PROFILES[session.get_one(Extract, key(waiting)).profile]
    monkeypatch.setitem(building.PROFILES, profile.name, replace(profile, version="999"))
    assert built(world)
    assert (status(world, waiting), world.analyst.get(waiting).json()["manifest"]) == ("expired", None)


def test_a_custodian_takes_back_what_cannot_be_built(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up(world, waiting, monkeypatch)
    taken = world.custodian.post(f"{waiting}/revocation", {"reason": "asked for anew"})
    assert (taken.status_code, taken.json()["status"], taken.json()["manifest"]) == (201, "revoked", None)


def given_up(world: World, waiting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        dies_after(patch, 0, ValueError)
        for _ in range(building.ATTEMPTS):
            assert built(world)
    assert status(world, waiting) == "failed"
    others = (Extract.status == ExtractStatus.failed, col(Extract.id) != key(waiting))
    with world.registry.database.write() as session:  # of other tests
        session.execute(update(Extract).where(*others).values(status=ExtractStatus.expired))


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("change", ["nothing", "version", "rows"])
def test_files_that_were_lost_are_written_again_as_they_were_cited_or_not_at_all(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A step of the schema may delete them; the rows of a later version of the registry may be others."""
    path = approved_of_several(world)
    assert built(world)
    assert built(world)
    cited = world.analyst.get(path).json()["manifest"]["row_content_sha256"]
    with world.registry.database.write() as session:
        for table in (ExtractFile, ExtractChunk):
            session.execute(delete(table).where(col(table.extract_id) == key(path)))
        row = session.get_one(Extract, key(path))
        row.status = ExtractStatus.building
        session.add(ExtractBuild(extract_id=row.id))
        if change == "rows":
            of_study = select(Outcome.id).where(col(Outcome.site_id).in_(world.site_ids.values()))
            session.execute(update(OutcomeScore).where(col(OutcomeScore.outcome_id).in_(of_study)).values(value=59))
    if change == "version":
        monkeypatch.delitem(building.VERSIONS, (row.profile, building.PROFILES[row.profile].version))
    assert built(world)
    read = world.analyst.get(path).json()
    assert read["status"] == ("ready" if change == "nothing" else "expired")
    assert read["manifest"]["row_content_sha256"] == cited
    assert (read["files"] != []) == (change == "nothing")


def test_workers_that_stopped_do_not_count_against_an_extract(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(building.ATTEMPTS):
        assert built(world, lambda: True)
    with monkeypatch.context() as patch:
        dies_after(patch, 0, ValueError)
        assert built(world)
    assert status(world, waiting) == "building"
    assert built(world)
    assert status(world, waiting) == "ready"


def test_an_extract_that_kills_its_workers_is_given_up_in_the_end(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "MOST_ATTEMPTS", 2)
    with monkeypatch.context() as patch:
        dies_after(patch, 0)
        for _ in range(2):
            with pytest.raises(Killed):
                built(world)
            assert status(world, waiting) == "building"
            lapse(world, waiting)
    assert built(world)
    assert status(world, waiting) == "failed"


@pytest.mark.parametrize("step", ["codebook_csv", "zipped"])
def test_chunks_that_a_crash_of_the_database_took_back_are_missed(
    world: World, waiting: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """They are committed without waiting for the disk, and a worker may see nothing of a crash between two of them."""
    written, mine = getattr(bundle, step), col(ExtractChunk.extract_id) == key(waiting)

    def crashed(*given: Any) -> Any:
        made = written(*given)
        with world.registry.database.write() as session:
            session.execute(delete(ExtractChunk).where(mine, col(ExtractChunk.name) == "visits.csv"))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(bundle, step, crashed)
        assert built(world)
    assert status(world, waiting) == "building"
    assert built(world)
    assert status(world, waiting) == "ready"


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
