"""The order of an extract's rows: by their bytes, so that another database, or a newer C library, has the same one."""

from typing import Any

import pytest
from sqlalchemy.dialects import postgresql

from app.models.extract import ExtractProfile
from app.privacy import profile
from app.services.extracts import extract_rows
from tests.builds import built_again
from tests.test_deidentified import asked, files, people, report_events, table
from tests.test_terms_of_classes import term
from tests.world import World

EVENTS = "adverse_events.csv"


def two_events_each(world: World) -> None:
    some = people(world, 26)[:13]
    for pt in ("aching", "Beating heart"):
        report_events(world, some, **term(pt))


def in_c(statement: str) -> int:
    """How many columns it sorts by their bytes, as PostgreSQL reads it."""
    return statement.rpartition("ORDER BY")[2].count('COLLATE "C"')


def test_events_come_in_the_order_of_bytes(world: World) -> None:
    two_events_each(world)
    assert [row["pt"] for row in table(files(world)[EVENTS])] == ["Beating heart", "aching"] * 13


@pytest.mark.parametrize(("version", "in_locale"), [("4", 0), ("3", 4)])
def test_each_text_of_an_event_is_sorted_so_but_in_what_was_cited_earlier(
    world: World, monkeypatch: pytest.MonkeyPatch, version: str, in_locale: int
) -> None:
    """By what PostgreSQL is asked, as its tests may have no other locale."""
    two_events_each(world)
    one = profile.VERSIONS[ExtractProfile.deidentified, version]
    asked_for: list[str] = []

    def told(rows: extract_rows.ExtractRows) -> Any:
        statement = rows.adverse_events()
        asked_for.append(str(statement.compile(dialect=postgresql.dialect())))
        return statement

    monkeypatch.setitem(extract_rows._STATEMENTS, EVENTS, told)
    with monkeypatch.context() as patch:
        patch.setitem(profile.PROFILES, ExtractProfile.deidentified, one)  # type: ignore[arg-type]
        path = asked(world)
        decision = {"decision": "approve", "reason": "agreed use"}
        assert world.custodian.post(f"{path}/approval", decision).status_code == 201
        assert world.analyst.get(f"{path}/files/{EVENTS}").status_code == 200
    assert built_again(world, path) == "the same rows"
    texts = [column for column in one.files[EVENTS] if column.type == "text"]
    assert {in_c(statement) for statement in asked_for} == {len(texts) - in_locale}
