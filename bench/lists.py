"""A group of cases: single insert and long list beside the bare yardstick (bench/yardstick.py). PostgreSQL only."""

import json
from urllib.parse import quote

import httpx

from bench.cases import VISIT, Place
from bench.ground import Ground, Group, Target, rates
from bench.load import Request
from bench.measure import asked
from bench.serving import answering
from bench.yardstick import TABLES, TOKEN

CLIENTS = 32
AHEAD, BEHIND = "first page of 250 visits", "last page of 250 visits"
_SIGNED = {"Authorization": f"Bearer {TOKEN}"}


def yardstick(ground: Ground) -> Group:
    """Token, site check, row and audit row; a filtered page of 250 at both ends of a table that holds all visits."""
    main = ground.main
    first = f"/v1/visits?site={main.seeded.site}&status=completed&limit=250"
    last = _behind(main.server.base_url, first, main.get(first)()[2], "cursor")
    own = [
        asked(AHEAD, main.server, main.get(first)),
        asked(BEHIND, main.server, main.get(last)),
    ]
    flat = Target("list: last page / first page", *rates(BEHIND, AHEAD), least=0.8)
    if ground.on_sqlite:
        return Group(own, [flat])
    with ground.owner(main).connect() as connection:
        site = connection.exec_driver_sql("SELECT id FROM site WHERE code = %s", (main.seeded.site,)).scalar_one()
        sites = dict(tuple(row) for row in connection.exec_driver_sql("SELECT pid, site_id FROM participant"))
        for statement in filter(str.strip, TABLES.split(";")):
            connection.exec_driver_sql(statement)
    address = str(main.settings.owner_database_url).replace("postgresql+psycopg", "postgresql")
    bare = ground.stack.enter_context(
        answering("bench.yardstick:create_yardstick", {"YARDSTICK_DATABASE_URL": address})
    )
    page = f"/visits?site_id={site}&status=completed"
    end = _behind(bare.base_url, page, _SIGNED, "after")
    many, insert = f"{VISIT}, {CLIENTS} clients", "yardstick: insert"
    found = [
        *own,
        asked(many, main.server, main.post_visit(), clients=CLIENTS, into=main.settings),
        asked(insert, bare, _visits(main, sites), clients=CLIENTS),
        asked(f"yardstick: {AHEAD}", bare, lambda: ("GET", page, _SIGNED, b"")),
        asked(f"yardstick: {BEHIND}", bare, lambda: ("GET", end, _SIGNED, b"")),
    ]
    targets = [
        Target("visit POST / yardstick, 32 clients", *rates(many, insert), least=0.5),
        Target("visit POST / yardstick: p99, 32 clients", (many, "p99_ms"), (insert, "p99_ms"), most=2.0),
        *(Target(f"{name} / yardstick", *rates(name, f"yardstick: {name}"), least=0.5) for name in (AHEAD, BEHIND)),
        flat,
    ]
    return Group(found, targets)


def _visits(place: Place, sites: dict[str, int]) -> Request:
    """The same visits; who asks the yardstick has to know the site."""

    def request() -> tuple[str, str, dict[str, str], bytes]:
        visit = json.loads(next(place.visits))
        return "POST", "/visits", _SIGNED, json.dumps({**visit, "site_id": sites[visit["participant"]]}).encode()

    return request


def _behind(base_url: str, path: str, headers: dict[str, str], parameter: str) -> str:
    """Where the last full page is."""
    with httpx.Client(base_url=base_url, headers=headers, trust_env=False, timeout=60) as client:
        full = here = path
        while True:
            answer = client.get(here).raise_for_status().json()
            full = here if len(answer["items"]) == 250 else full
            if len(answer["items"]) < 250 or answer["next"] is None:
                return full
            here = f"{path}&{parameter}={quote(answer['next'])}"
