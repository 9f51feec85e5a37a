"""A group of cases: the monitor's page and a count, under the server's role and under one without row-level security.

The statement is the registry's own, the transaction around it the same, over one connection to the driver.
"""

from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql import psycopg as dialect

from app.access import Actor
from app.database import Database
from app.models.adverse_event import AdverseEvent
from app.models.adverse_event_shapes import AdverseEventFilter
from app.permissions import Permission
from app.services.safety import adverse_events, ae_lists
from app.site_lists import Form, page_of
from bench.cases import Place
from bench.ground import Ground, Group, Target, rates
from bench.measure import repeated
from tests.postgres import SERVER_ROLE

UNBOUND = "registry_bench_unbound"


def walls(ground: Ground) -> Group:
    """Time with row-level security / without. PostgreSQL."""
    if ground.on_sqlite:
        return Group([], [])
    main = ground.grown()[1]
    with ground.owner(main).connect() as connection:
        if not connection.exec_driver_sql("SELECT 1 FROM pg_roles WHERE rolname = %s", (UNBOUND,)).first():
            made = f"CREATE ROLE {UNBOUND} LOGIN PASSWORD '{UNBOUND}' BYPASSRLS IN ROLE {SERVER_ROLE}"
            connection.exec_driver_sql(made)
    actor = main.monitor(Permission.adverse_event_read)
    listed = ", ".join(str(site) for site in sorted(actor.site_ids))
    statements = {
        "AE page": page(main, actor),
        "AE count": f"SELECT count(*) FROM adverse_event WHERE site_id IN ({listed})",
    }
    found, targets = [], []
    for (name, statement), most in zip(statements.items(), (1.25, 3.0), strict=True):
        for said, role in (("on", SERVER_ROLE), ("off", UNBOUND)):
            ask = _asking(ground, main, role, actor, statement)
            found.append(repeated(f"{name}, row-level security {said}", ask))
        wall = f"{name}, row-level security"
        targets.append(Target(f"{wall}: on / off", *rates(f"{wall} off", f"{wall} on"), most=most))
    return Group(found, targets)


def page(place: Place, actor: Actor) -> str:
    """The statement of the list as the registry makes it, with its values in it."""
    query = AdverseEventFilter(site=place.seeded.site, serious=True)
    with Database(place.settings) as database, database.read() as session:
        wanted = ae_lists.asked(session, actor, query)
    [site_id] = actor.sites_at(None, place.seeded.site)
    keys, rows = (wanted.key, AdverseEvent.id), adverse_events.listed(wanted.key)
    form = Form(rows, keys, AdverseEvent.site_id, wanted.by.where, wanted.ascending, later=False, most=51)
    asked = page_of(form, None).params({**wanted.by.given, "site": site_id})
    made: Any = dialect.dialect()  # type: ignore[no-untyped-call]
    return str(asked.compile(dialect=made, compile_kwargs={"literal_binds": True})).replace("%%", "%")


def _asking(ground: Ground, place: Place, role: str, actor: Actor, statement: str) -> Callable[[], None]:
    url = make_url(place.settings.database_url).set(drivername="postgresql", username=role, password=role)
    connection = ground.stack.enter_context(psycopg.connect(url.render_as_string(hide_password=False), autocommit=True))
    sites = ",".join(str(site) for site in sorted(actor.clinical_sites))

    def ask() -> None:
        connection.execute(f"BEGIN; SET LOCAL registry.sites = '{sites}'")
        connection.execute(statement).fetchall()
        connection.execute("COMMIT")

    return ask
