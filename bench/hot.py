"""Groups of cases: the hot paths beside their floors and beside idiomatic code, with several writers and workers."""

from bench import cases
from bench.cases import ACTOR, BARE, PAGE, TOKEN, VALIDATED, VISIT, page_of
from bench.ground import Ground, Group, Target, rates
from bench.measure import asked
from bench.serving import served

NORMAL = f"{VISIT}, synchronous NORMAL"


def floors(ground: Ground) -> Group:
    """Token check, visit and page over what they cannot do without."""
    main = ground.main
    least = {"visit": 0.22, "page": 0.22} if ground.on_sqlite else {"visit": 0.40, "page": 0.25}
    targets = [
        Target("token check / bare endpoint", *rates(TOKEN, BARE), least=0.55),
        Target("visit POST, durable / validated without database", *rates(VISIT, VALIDATED), least=least["visit"]),
        Target("AE page of 50, filtered / bare with account", *rates(PAGE, ACTOR), least=least["page"]),
    ]
    if ground.on_sqlite:
        targets.append(_steady(VISIT))
    return Group([*cases.floors(main), *cases.nouns(main)], targets)


def synchronous(ground: Ground) -> Group:
    """The visit on SQLite with synchronous NORMAL, in a database of its own."""
    if not ground.on_sqlite:
        return Group([], [])
    normal = ground.place(ground.volume, sqlite_synchronous="NORMAL")
    visit = asked(NORMAL, normal.server, normal.post_visit(), into=normal.settings)
    wanted = Target("visit POST, NORMAL / validated without database", *rates(NORMAL, VALIDATED), least=0.38)
    return Group([visit], [wanted, _steady(NORMAL)])


def _steady(visit: str) -> Target:
    return Target(f"{visit}: p99 / p50 at 16 clients", (visit, "p99_ms"), (visit, "p50_ms"), most=4.0)


def idiomatic(ground: Ground) -> Group:
    """No target: how far the registry is ahead of plain SQLModel code, or behind it."""
    forms = [Target(f"{name} / idiomatic ORM", *rates(name, f"{name}, idiomatic ORM"), least=1.0) for name in _NOUNS]
    return Group(cases.idiomatic(ground.main), forms)


_NOUNS = (VISIT, PAGE)


def writers(ground: Ground) -> Group:
    """Sixteen clients post as one account of all sites (the case itself), each visit as an account of its site, or one
    client does. PostgreSQL."""
    if ground.on_sqlite:
        return Group([], [])
    main, alone = ground.main, f"{VISIT}, 1 client"
    one = asked(alone, main.server, main.post_visit(), clients=1, into=main.settings)
    apart = asked(f"{VISIT}, by site", main.server, main.post_visit_of_site(), into=main.settings)
    return Group(
        [one, apart],
        [
            Target("16 writers / 1 writer", *rates(VISIT, alone), least=1.0),
            Target("visit POST, an account a site / validated", *rates(apart.name, VALIDATED), least=0.40),
        ],
    )


def workers(ground: Ground) -> Group:
    """Two workers against one, with database and client on the same cores. On SQLite they only read. Sixteen clients do
    not fill a worker whose posts share transactions, so visits are also asked by as many as do."""
    main = ground.main
    two = ground.stack.enter_context(served(main.settings, workers=2))
    found = [asked(f"{PAGE}{_TWO}", two, main.get(page_of(main)))]
    names = [PAGE]
    if not ground.on_sqlite:
        many = f"{VISIT}, {MANY} clients"
        found += [
            asked(f"{VISIT}{_TWO}", two, main.post_visit(), into=main.settings),
            asked(many, main.server, main.post_visit(), clients=MANY, into=main.settings),
            asked(f"{many}{_TWO}", two, main.post_visit(), clients=MANY, into=main.settings),
        ]
        names += [VISIT, many]
    return Group(found, [Target(f"{one}: 2 workers / 1", *rates(f"{one}{_TWO}", one), least=1.3) for one in names])


MANY, _TWO = 64, ", 2 workers"
