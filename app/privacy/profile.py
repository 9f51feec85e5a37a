"""The profiles: which columns an extract has, and how each is treated. Pure data and checks.

`deidentified` has coded clinical content at nominal visits, quasi-identifiers coarsened until each class has k people
or more, and no day of any kind. `pseudonymised` is for a named project under an agreement: study days, exact ages and
every scored instrument, under ids of the project. Neither releases calendar dates, item values, single seriousness
criteria or free text.
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from app.models.extract import ExtractProfile
from app.privacy.fields import FIELDS
from app.privacy.quasi import OTHER
from app.privacy.treatment import FITTING, FOR_AGREEMENTS, MADE_HERE, RARE_TERM_PERSONS, Treatment


def common_codes(people: Mapping[str, int], *, listed: bool, withheld: Set[str] = frozenset()) -> list[str]:
    """The codes to show, given how many people have each: those of RARE_TERM_PERSONS people or more that are not
    `withheld`. `listed`: analysts can read the list of all codes, so that a single hidden one would be known; then the
    rarest of the others is hidden too."""
    common = sorted(
        (number, code) for code, number in people.items() if number >= RARE_TERM_PERSONS and code not in withheld
    )
    one_hidden = listed and len(people) - len(common) == 1
    return sorted(code for _, code in common[one_hidden:])


RELEASED_INSTRUMENTS = frozenset(
    {
        "MADRS",
        "HAMA",
        "HAMD17",
        "PHQ9",
        "GAD7",
        "QIDS_SR16",
        "CGI_I",
        "CGI_S",
        "SHEEHAN_SDS",
        "ISI",
        "PSQI",
        "WHO5",
        "EQ5D5L",
        "SCS_SF",
        "MEQ30",
        "SEVAS_DOSE",
        "SEVAS_SUPP",
        "SEVAS_END",
        "MMSE",
        "MHIS",
        "DAD",
    }
)
"""Instruments whose scores a deidentified extract has. Those of trauma, dissociation and suicidality (ACE, CTQ_SF,
PCL5, ITQ, DES_II, CSSRS) are not among them, as an answer may be known of one person (GDPR article 9; design of
de-identification). An instrument that is not named here is not released."""

RELEASED_INTERESTS = frozenset(
    {
        "hypertension",
        "tachycardia",
        "arrhythmia",
        "syncope",
        "hyperthermia",
        "hyponatraemia",
        "hepatic",
        "serotonin_syndrome",
        "seizure",
        "panic",
        "bruxism",
    }
)
"""The events of special interest that a deidentified extract names. Suicidality, psychosis, abuse, use of drugs and
misconduct are not among them, for the same reason. Of an event whose special interest is not named here, the preferred
term is not released either."""


def of_nearly_all(people: int, of_class: int) -> bool:
    """Whether more than nine in ten people of a class have something, which discloses it of each of them (group
    disclosure: Brandt and others, Guidelines for the checking of output based on microdata research, ESSnet SDC
    2010)."""
    return 10 * people > 9 * of_class


_FIRST = "A-Za-z0-9À-ÖØ-öø-ɏΈ-ϿЀ-ԯḀ-ỿ"  # noqa: RUF001 - Latin, Greek and Cyrillic letters
_SAFE = f"{_FIRST} _./<>+:,()&%'-"
SAFE_TEXT = re.compile(f"[{_FIRST}][{_SAFE}]*")
"""Text that a CSV cell may have: no program can read it as a formula, not even one that uses another separator or
treats full-width signs as signs (OWASP, CSV injection)."""

SAFE_PATTERN = rf"\A{SAFE_TEXT.pattern}\Z"
"""The same for PostgreSQL, matching the whole text."""

SAFE_GLOB, UNSAFE_GLOB = f"[{_FIRST}]*", f"*[^{_SAFE}]*"
"""The same for SQLite, for text without NUL: it matches the first pattern and not the second."""

OWN_CODES = frozenset(
    {
        "visit.visit_code",
        "visit.status",
        "adverse_event.severity",
        "outcome.instrument",
        "outcome.instrument_version",
        "outcome.origin",
        "outcome_score.name",
        "outcome_score.band",
    }
)
"""Columns that hold only codes of protocols, of instruments and of the registry itself. Nobody types them, and their
definitions are checked to be safe text, so the rows are not checked one by one."""


class NotReleasable(Exception):
    """A profile declares a column whose class does not allow its treatment. A defect, found by a test."""


@dataclass(frozen=True)
class Column:
    """One column of an extract file."""

    name: str
    label: str
    source: str
    type: str = "text"
    treatment: Treatment = Treatment.as_stored

    @property
    def typed(self) -> bool:
        """Whether somebody may have typed its values."""
        return self.type == "text" and self.source not in OWN_CODES and self.treatment not in MADE_HERE

    def __post_init__(self) -> None:
        table, _, column = self.source.partition(".")
        if FIELDS[table][column] not in FITTING[self.treatment]:
            raise NotReleasable(self.source)


@dataclass(frozen=True)
class Profile:
    """A named set of files. Raises NotReleasable for a treatment that needs an agreement where none is asked for."""

    name: ExtractProfile
    version: str
    files: Mapping[str, Sequence[Column]]
    """File -> its columns, in order. Nothing else gets into an extract."""

    in_locale: bool = False
    """Whether adverse events are sorted by PostgreSQL's locale, as in earlier versions, and not by their bytes. Another
    database, or an upgrade of the system's C library, may sort them differently."""

    @property
    def under_agreement(self) -> bool:
        return self.name is ExtractProfile.pseudonymised

    def treats(self, *treatments: Treatment) -> frozenset[str]:
        """The sources of its columns that have one of these treatments."""
        return frozenset(one.source for many in self.files.values() for one in many if one.treatment in treatments)

    def __post_init__(self) -> None:
        for columns in self.files.values():
            for column in columns:
                if column.treatment in FOR_AGREEMENTS and not self.under_agreement:
                    raise NotReleasable(column.source)


_SUBJECT = Column("subject", "Participant in this extract", "extract_subject.subject", treatment=Treatment.subject)
_ARMS = tuple(
    Column(name, label, f"participant.{name}", treatment=Treatment.common_code)
    for name, label in (("planned_arm", "Planned arm"), ("actual_arm", "Actual arm"))
)
_NAMED = (
    Column("visit_code", "Visit of the protocol", "visit.visit_code"),
    Column("occurrence", "Occurrence of the visit", "visit.occurrence", "integer"),
)
_DAY = Column("study_day", "Day of the visit", "visit.occurred_on", "integer", Treatment.study_day)
_VISIT_STATUS = Column("status", "Whether the visit took place", "visit.status")
_SCORE = (
    Column("instrument", "Instrument", "outcome.instrument"),
    Column("instrument_version", "Version of the instrument and its scoring rule", "outcome.instrument_version"),
    Column("score", "Name of the score", "outcome_score.name"),
    Column("value", "Score computed from the items", "outcome_score.value", "number"),
    Column("band", "Severity band of the instrument", "outcome_score.band"),
    Column("origin", "items, or historical_total: imported without items", "outcome.origin"),
)


def _event(name: str, label: str, treatment: Treatment, type_: str = "text") -> Column:
    return Column(name, label, f"adverse_event.{name}", type_, treatment)


def _events(
    code: Treatment, onset: Column, serious: Treatment, term: Treatment, interest: Treatment
) -> tuple[Column, ...]:
    return (
        _SUBJECT,
        _event("soc", "System organ class", term),
        _event("pt", "Preferred term", term),
        onset,
        _event("severity", "Severity", Treatment.as_stored),
        _event("serious", "Meets a seriousness criterion", serious, "boolean"),
        _event("relatedness_drug", "Relatedness to the drug", Treatment.as_stored),
        _event("relatedness_therapy", "Relatedness to the therapy", Treatment.as_stored),
        _event("action_taken", "Action taken with the drug", code),
        _event("outcome", "Outcome of the event", code),
        _event("expected", "Expected by the reference safety information", Treatment.as_stored, "boolean"),
        _event("special_interest", "Event of special interest", interest),
    )


_PERSON = (
    ("age_group", "Age at consent in years"),
    ("sex", "Sex at birth"),
    ("race", "Race by CDISC's list; any other is OTHER"),
    ("country", "Country of the site"),
    ("status", "Status in the study; withdrawn where it is later than a withdrawal of collection"),
)


def _person(treatment: Treatment) -> tuple[Column, ...]:
    return tuple(Column(name, label, f"extract_subject.{name}", treatment=treatment) for name, label in _PERSON)


def _declared(name: str, label: str) -> Column:
    return Column(name, label, "extract_file.name", treatment=Treatment.declared)


def _tables(version: str, treatment: Treatment, hidden: str) -> Profile:
    return Profile(
        ExtractProfile.aggregate,
        version,
        {
            "tables.csv": (
                _declared("table", "Table"),
                _declared("row", "Row of the table; all people: its margin"),
                _declared("column", "Column of the table; all people: its margin"),
                _declared("statistic", "people, mean or sd"),
                Column("value", "Figure", "outcome_score.value", "number", treatment),
                Column("suppressed", hidden, "outcome_score.value", "boolean", treatment),
            )
        },
    )


def _deidentified(
    version: str, term: Treatment, interest: Treatment, timed: Treatment, since_dose: Treatment
) -> Profile:
    onset = Column("onset", "Onset", "adverse_event.onset", treatment=since_dose)
    timing = Column("timing", "Whether the visit lay in its window", "visit.occurred_on", treatment=timed)
    return Profile(
        ExtractProfile.deidentified,
        version,
        {
            "participants.csv": (_SUBJECT, *_person(Treatment.coarsened), *_ARMS),
            "visits.csv": (_SUBJECT, *_NAMED, timing, _VISIT_STATUS),
            "outcomes.csv": (_SUBJECT, *_NAMED, timing, *_SCORE),
            "adverse_events.csv": _events(Treatment.common_code, onset, Treatment.serious, term, interest),
        },
    )


_SUPPRESSED = "Hidden: of few people, or so that these do not follow; or rounded to nothing"
PROFILES: Mapping[ExtractProfile, Profile] = {
    ExtractProfile.aggregate: _tables("5", Treatment.secondary_suppression, _SUPPRESSED),
    ExtractProfile.deidentified: _deidentified(
        "4", Treatment.spread_term, Treatment.spread_interest, Treatment.timing, Treatment.since_dose
    ),
    ExtractProfile.pseudonymised: Profile(
        ExtractProfile.pseudonymised,
        "3",
        {
            "participants.csv": (
                _SUBJECT,
                Column(
                    "site",
                    "Site, under a code of the project",
                    "extract_subject.site_group",
                    treatment=Treatment.under_agreement,
                ),
                *_person(Treatment.under_agreement),
                Column("ethnicity", "Ethnicity", "participant.ethnicity", treatment=Treatment.under_agreement),
                Column("protocol_version", "Protocol version", "protocol_version.version"),
                Column("eligible", "Eligible at screening", "participant.eligible", "boolean"),
                Column("planned_arm", "Planned arm", "participant.planned_arm"),
                Column("actual_arm", "Actual arm", "participant.actual_arm"),
                Column("enrolled_day", "Day of enrolment", "participant.enrolled_on", "integer", Treatment.study_day),
            ),
            "visits.csv": (_SUBJECT, *_NAMED, _DAY, _VISIT_STATUS),
            "outcomes.csv": (_SUBJECT, *_NAMED, _DAY, *_SCORE),
            "adverse_events.csv": _events(
                Treatment.under_agreement,
                Column("onset_day", "Day of onset", "adverse_event.onset", "integer", Treatment.study_day),
                Treatment.as_stored,
                Treatment.common_term,
                Treatment.under_agreement,
            ),
        },
    ),
}
"""The current versions, with which extracts are approved."""

_BY_VISIT = Treatment.timing_of_all, Treatment.since_dosing_visit
_EARLIER = (
    _tables("3", Treatment.primary_suppression, "Hidden: of few people, or rounded to nothing"),
    _tables("4", Treatment.secondary_suppression_of_first, _SUPPRESSED),
    replace(_deidentified("2", Treatment.common_term, Treatment.common_code, *_BY_VISIT), in_locale=True),
    replace(_deidentified("3", Treatment.spread_english_term, Treatment.spread_interest, *_BY_VISIT), in_locale=True),
    replace(PROFILES[ExtractProfile.pseudonymised], version="2", in_locale=True),
)
VERSIONS: Mapping[tuple[ExtractProfile, str], Profile] = {
    (one.name, one.version): one for one in (*_EARLIER, *PROFILES.values())
}
"""All versions. An extract is built with the version of its approval, so that the rows that were cited come out
again."""


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
