"""`registry extracts`, as an operator types it."""

import subprocess
from collections.abc import Callable

import pytest
from sqlmodel import col, update

from app import pid as pids
from app.models.outcome import Outcome
from app.services.extracts import building
from tests.builds import built, dies_after, status
from tests.route_cases import an_extract, extract_of
from tests.server import typed
from tests.test_data_cuts import amend, course, extract
from tests.world import World

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(world: World) -> Run:
    settings = world.registry.app.state.settings
    variables = {
        "REGISTRY_ENVIRONMENT": "demo",
        "REGISTRY_KEY_FILE": str(settings.key_file),
        "REGISTRY_DATABASE_URL": settings.database_url,
        "REGISTRY_OWNER_DATABASE_URL": settings.owner_database_url or "",
    }
    given = {name: value for name, value in variables.items() if value}
    return lambda *arguments: typed(given, "extracts", *arguments)


def test_build_says_what_could_not_be_built_and_tries_it_once_more_when_asked_again(
    world: World, waiting: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        dies_after(patch, 0, ValueError)
        patch.setattr(building, "ATTEMPTS", 1)
        failed = run("build")
    assert (failed.returncode, failed.stdout.split(maxsplit=1)[0]) == (1, "0"), failed.stderr
    assert "could not be built" in failed.stdout
    assert status(world, waiting) == "failed"
    done = run("build")
    assert (done.returncode, done.stdout.endswith("extracts built.\n")) == (0, True), done.stderr
    assert status(world, waiting) == "ready"
    assert run("build").stdout == "0 extracts built.\n"
    assert not built(world)


def test_verify_goes_on_behind_rows_that_cannot_be_restored(world: World, run: Run) -> None:
    elsewhere = World(world.registry)
    first, second = course(world), an_extract(elsewhere)
    paths = [extract(world), second]
    approve = {"decision": "approve", "reason": "agreed use"}
    assert elsewhere.custodian.post(f"{second}/approval", approve).is_success
    amend(world, first["outcome"], items={"MADRS_01": 6})
    assert verdicts(run, *paths) == [building.SAME] * 2
    unknown = update(Outcome).where(col(Outcome.site_id) == world.site_ids["A"]).values(instrument_version="99")
    with world.registry.database.write() as session:
        session.execute(unknown)
    assert verdicts(run, *paths) == [building.OTHER, building.SAME]


def verdicts(run: Run, *paths: str) -> list[str]:
    """What the command says of these extracts."""
    lines = dict(line.split(": ", 1) for line in run("verify").stdout.splitlines())
    return [lines[path.rpartition("/")[2]] for path in paths]


def test_extracts_of_a_participant_are_listed_and_the_look_is_remembered(world: World, run: Run) -> None:
    pid = world.enrolled()
    held, fetched = (extract_of(world, approved=True, agreement=f"DUA-{number}") for number in (1, 2))
    later, name = world.enrolled(), f"{fetched}/files/participants.csv"
    assert world.analyst.get(name).status_code == 200
    assert world.custodian.post(f"{held}/revocation", {"reason": "misuse"}).is_success
    lines = [line.split(", ") for line in run("of", pid.lower()).stdout.splitlines()]
    first, second = (f"{path.rpartition('/')[2]}: pseudonymised" for path in (held, fetched))
    assert [[*line[:2], *line[3:]] for line in lines] == [
        [first, "Test", "revoked", "not downloaded"],
        [second, "Test", "ready", "downloaded"],
    ]
    assert run("of", later).stdout == "In no extract.\n"
    looks = world.monitor.get("/v1/audit-entries", action="extract:receivers-read").json()["items"]
    assert {(one["subject_id"], one["actor"]) for one in looks} == {
        (one.replace("-", ""), "system") for one in (pid, later)
    }


def test_a_pid_that_is_nobodys_is_refused(world: World, run: Run) -> None:
    mistyped, nobodys = run("of", "AAAA-AAAA-AAAA"), run("of", pids.draw())
    assert (mistyped.returncode, "mistyped" in mistyped.stderr) == (2, True)
    assert (nobodys.returncode, nobodys.stderr) == (2, "Nobody is enrolled under this pid.\n")
