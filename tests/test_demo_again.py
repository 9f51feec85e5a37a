"""`registry demo`: started again after weeks, what it prints still works; and what it cannot be asked."""

import re
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import create_engine, update
from sqlmodel import col
from typer.testing import CliRunner

from app.cli import app
from app.demo.demo_file import Demo, DemoAccount
from app.demo.load import lasting_extract, new_extract
from app.demo.tour import tour
from app.models.base import now
from app.models.extract import Extract
from app.privacy.lattice import K
from tests.hostile import live_study
from tests.server import LiveServer


def demo_of(study: str, base_url: str, tokens: Mapping[str, str]) -> Demo:
    accounts = [DemoAccount(role=role, organisation="T", sites=["A"], token=token) for role, token in tokens.items()]  # type: ignore[arg-type]
    return Demo(base_url=base_url, study=study, sites=["A"], extract="", accounts=accounts)


def test_there_is_an_extract_to_download_when_the_time_of_the_first_is_over(live_server: LiveServer) -> None:
    with live_study(live_server) as study:
        for _ in range(K):
            study.enrolled()
        tokens = {role: study.caller(role).token for role in ("analyst", "custodian")}
        demo = demo_of(study.study, live_server.base_url, tokens)
        first = demo.extract = new_extract(demo)
        assert lasting_extract(demo) == first
        engine = create_engine(live_server.database_url)
        with engine.begin() as connection:
            connection.execute(update(Extract).where(col(Extract.id) == UUID(first)).values(expires_at=now()))
        engine.dispose()
        second = lasting_extract(demo)
        headers = {"Authorization": f"Bearer {demo.first('analyst').token}"}
        gone, there = (
            study.http.get(f"/v1/extracts/{one}/files/visits.csv", headers=headers) for one in (first, second)
        )
        assert (gone.status_code, there.status_code) == (410, 200)


def test_a_line_of_the_tour_has_the_same_key_with_another_extract() -> None:
    demo = demo_of("S", "http://127.0.0.1", dict.fromkeys(("site_staff", "monitor", "analyst"), "token"))

    def keys(extract: str) -> list[str]:
        demo.extract = extract
        printed = tour(demo, "7K3F-9TQ2-XMEE", {"id": "1", "site": "A"}, Path("demo.json"), proxied=False)
        return re.findall(r"Idempotency-Key: (\S+)'", printed)

    assert len(set(keys("one"))) == 4
    assert keys("one") == keys("another")


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_there_is_not_is_refused_before_anything_is_made(port: str, tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["demo", "--data", str(tmp_path / "data"), "--port", port])
    assert (ran.exit_code, (tmp_path / "data").exists()) == (2, False)
