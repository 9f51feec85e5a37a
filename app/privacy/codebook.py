"""The codebook: for every column of an extract its meaning, type, unit, codes, source and treatment."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.models.adverse_event import ActionTaken, AeOutcome, Relatedness, Severity
from app.models.extract import ExtractProfile
from app.models.outcome import OutcomeOrigin
from app.models.participant import ParticipantStatus, Sex
from app.models.visit import VisitStatus
from app.privacy import tables
from app.privacy.profile import RELEASED_INSTRUMENTS, RELEASED_INTERESTS, Column, Profile
from app.privacy.quasi import ETHNICITIES, OTHER, RACES, SINCE_DOSE
from app.privacy.treatment import CLASSES_OF_DAYS, SECONDARY_SUPPRESSION, TIMINGS, Treatment
from app.protocol.instruments import instruments

_CLASSES: Mapping[Treatment, Sequence[str]] = {
    **dict.fromkeys(CLASSES_OF_DAYS, SINCE_DOSE),
    **dict.fromkeys(TIMINGS, ("early", "in_window", "late")),
    Treatment.spread_interest: (*sorted(RELEASED_INTERESTS), OTHER),
}
_DECLARED: Mapping[str, Sequence[str]] = {
    "table": sorted([*(one.name for one in tables.COUNTS), tables.EVENTS, tables.SCORES]),
    "statistic": ("people", "mean", "sd"),
}
"""Column of tables.csv -> its codes. Those of `row` and `column` depend on the data."""

_STORED: Mapping[str, Sequence[str]] = {
    "adverse_event.action_taken": tuple(ActionTaken),
    "adverse_event.outcome": tuple(AeOutcome),
    "adverse_event.relatedness_drug": tuple(Relatedness),
    "adverse_event.relatedness_therapy": tuple(Relatedness),
    "adverse_event.severity": tuple(Severity),
    "extract_subject.race": sorted(RACES),
    "extract_subject.sex": tuple(Sex),
    "extract_subject.status": tuple(ParticipantStatus),
    "outcome.origin": tuple(OutcomeOrigin),
    "participant.ethnicity": sorted(ETHNICITIES | {OTHER}),
    "visit.status": tuple(VisitStatus),
}
"""Source -> every code that it may have. A column that is not here has numbers, ids or names of the study."""

_DAYS = CLASSES_OF_DAYS | {Treatment.study_day}
_COUNTED = SECONDARY_SUPPRESSION | {Treatment.primary_suppression}


def _codes(profile: ExtractProfile, column: Column) -> list[str]:
    if column.treatment is Treatment.coarsened:
        return []  # they depend on the levels, which the extract's manifest names
    if column.treatment in _CLASSES:
        return list(_CLASSES[column.treatment])
    if column.treatment is Treatment.declared:
        return list(_DECLARED.get(column.name, ()))
    if column.type == "boolean":
        return ["N", "Y"]
    stored = [str(code) for code in {**_STORED, **_of_instruments(profile)}.get(column.source, ())]
    return [*stored, OTHER] if stored and column.treatment is Treatment.common_code else stored


def _of_instruments(profile: ExtractProfile) -> Mapping[str, Sequence[str]]:
    """The codes of the instruments whose scores the profile has, in all their versions, by source."""
    all_of_them = profile == ExtractProfile.pseudonymised
    released = [one for one in instruments().values() if all_of_them or one.code in RELEASED_INSTRUMENTS]
    scores = [rule for one in released for rule in one.scores]
    return {
        "outcome.instrument": sorted({one.code for one in released}),
        "outcome_score.name": sorted({rule.name for rule in scores}),
        "outcome_score.band": sorted({band.label for rule in scores for band in rule.bands}),
    }


def _unit(column: Column) -> str | None:
    if column.treatment in _DAYS:
        return "days"
    if column.name == "age_group":
        return "years"
    if column.source != "outcome_score.value" or column.type != "number":
        return None
    return "people, or points of the score" if column.treatment in _COUNTED else "points of the score"


def codebook(profile: Profile) -> list[dict[str, Any]]:
    """Every column of every file of a profile. `codes` is empty for numbers, ids and names of the study."""
    return [
        {
            "file": file,
            "name": column.name,
            "label": column.label,
            "type": column.type,
            "unit": _unit(column),
            "codes": _codes(profile.name, column),
            "source": column.source,
            "treatment": column.treatment.value,
            "null_means": "not given, not known or not released",
        }
        for file, columns in profile.files.items()
        for column in columns
    ]
