"""The `deidentified` profile, version 0.1: which columns leave, under which treatment. Pure data and checks.

Released are coded clinical content and study days. Dates, quasi-identifiers (age, sex, race, ethnicity, country,
site), item values, criteria and every free text stay. A dictionary term leaves only when at least RARE_TERM_PERSONS
participants of the extract have it; otherwise it reads OTHER. Full k-anonymity is not part of it yet.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.privacy.fields import FIELDS, FieldClass

PROFILE_VERSION = "0.1"
RARE_TERM_PERSONS = 12
"""A released term is shared by at least this many participants: 1/12 is under the 0.09 of EMA Policy 0070."""

OTHER = "OTHER"
RELEASED_INSTRUMENTS = frozenset(
    {
        *("MADRS", "HAMA", "HAMD17", "PHQ9", "GAD7", "QIDS_SR16", "CGI_I", "CGI_S", "SHEEHAN_SDS", "ISI", "PSQI"),
        *("WHO5", "EQ5D5L", "SCS_SF", "MEQ30", "SEVAS_DOSE", "SEVAS_SUPP", "SEVAS_END", "MMSE", "MHIS", "DAD"),
    }
)
"""Whose scores leave. Trauma, dissociation and suicidality (ACE, CTQ_SF, PCL5, ITQ, DES_II, CSSRS) do not: an answer
there can be known of one person (GDPR article 9; design of de-identification). What is not named here stays."""

SAFE_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _./<>+:,()'-]*", re.ASCII)
"""Text that may stand in a CSV cell: it can never begin a spreadsheet formula."""


class Treatment(StrEnum):
    as_stored = "as stored"
    study_day = "study day: day 1 is the first dosing visit that took place, else baseline; there is no day 0"
    common_term = f"dictionary term shared by at least {RARE_TERM_PERSONS} participants of the extract, else {OTHER}"
    subject = "random identifier of this extract only"


_FITTING: Mapping[Treatment, frozenset[FieldClass]] = {
    Treatment.as_stored: frozenset({FieldClass.clinical}),
    Treatment.study_day: frozenset({FieldClass.date}),
    Treatment.common_term: frozenset({FieldClass.clinical}),
    Treatment.subject: frozenset({FieldClass.direct}),
}


class NotReleasable(Exception):
    """A column was declared for release whose class does not allow its treatment. A defect, found by a test."""


@dataclass(frozen=True)
class Column:
    """One column of an extract file."""

    name: str
    label: str
    source: str
    type: str = "text"
    treatment: Treatment = Treatment.as_stored

    def __post_init__(self) -> None:
        table, _, column = self.source.partition(".")
        if FIELDS[table][column] not in _FITTING[self.treatment]:
            raise NotReleasable(self.source)


_SUBJECT = Column("subject", "Participant in this extract", "extract_subject.subject", treatment=Treatment.subject)
_VISIT = (
    Column("visit_code", "Visit of the protocol", "visit.visit_code"),
    Column("occurrence", "Occurrence of the visit", "visit.occurrence", "integer"),
    Column("study_day", "Day of the visit", "visit.occurred_on", "integer", Treatment.study_day),
)
FILES: Mapping[str, Sequence[Column]] = {
    "participants.csv": (
        _SUBJECT,
        Column("protocol_version", "Protocol version", "protocol_version.version"),
        Column("status", "Status in the study", "participant.status"),
        Column("eligible", "Eligible at screening", "participant.eligible", "boolean"),
        Column("planned_arm", "Planned arm", "participant.planned_arm"),
        Column("actual_arm", "Actual arm", "participant.actual_arm"),
        Column("enrolled_day", "Day of enrolment", "participant.enrolled_on", "integer", Treatment.study_day),
    ),
    "visits.csv": (_SUBJECT, *_VISIT, Column("status", "Whether the visit took place", "visit.status")),
    "outcomes.csv": (
        _SUBJECT,
        *_VISIT,
        Column("instrument", "Instrument", "outcome.instrument"),
        Column("instrument_version", "Version of the instrument and its scoring rule", "outcome.instrument_version"),
        Column("score", "Name of the score", "outcome_score.name"),
        Column("value", "Score computed from the items", "outcome_score.value", "number"),
        Column("band", "Severity band of the instrument", "outcome_score.band"),
        Column("origin", "items, or historical_total: imported without items", "outcome.origin"),
    ),
    "adverse_events.csv": (
        _SUBJECT,
        Column("soc", "System organ class", "adverse_event.soc", treatment=Treatment.common_term),
        Column("pt", "Preferred term", "adverse_event.pt", treatment=Treatment.common_term),
        Column("onset_day", "Day of onset", "adverse_event.onset", "integer", Treatment.study_day),
        Column("severity", "Severity", "adverse_event.severity"),
        Column("serious", "Meets a seriousness criterion", "adverse_event.serious", "boolean"),
        Column("relatedness_drug", "Relatedness to the drug", "adverse_event.relatedness_drug"),
        Column("relatedness_therapy", "Relatedness to the therapy", "adverse_event.relatedness_therapy"),
        Column("action_taken", "Action taken with the drug", "adverse_event.action_taken"),
        Column("outcome", "Outcome of the event", "adverse_event.outcome"),
        Column("expected", "Expected by the reference safety information", "adverse_event.expected", "boolean"),
        Column("special_interest", "Event of special interest", "adverse_event.special_interest"),
    ),
}
"""File -> columns, in order. The only way into an extract."""


def codebook() -> list[dict[str, Any]]:
    """Every column of every file: what it means, where it comes from, what was done to it."""
    return [
        {
            "file": file,
            "name": column.name,
            "label": column.label,
            "type": column.type,
            "source": column.source,
            "treatment": column.treatment.value,
            "null_means": "not given, not known or not released",
        }
        for file, columns in FILES.items()
        for column in columns
    ]


def cell(value: Any) -> str:
    """A value as CSV text: Y and N for booleans, whole numbers without a point; unsafe text becomes OTHER."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "Y" if value else "N"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    text = str(value)
    return text if isinstance(value, int) or SAFE_TEXT.fullmatch(text) else OTHER
