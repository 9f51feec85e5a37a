"""Scores of a participant against the baseline, and of a study by visit."""

from typing import Literal
from uuid import UUID

from app.models.base import Answer, Code, Filter, InstantShown
from app.models.identifiers import PidShown


class ResponseRead(Answer):
    """One score at one visit against the participant's baseline, derived on reading; null where it cannot be told."""

    outcome: UUID
    visit_code: str
    occurrence: int
    instrument: str
    score: str
    value: int | float | None
    baseline: int | float | None
    change: int | float | None
    """Value minus baseline: negative where the score fell."""

    response: bool | None
    remission: bool | None
    band: str | None


class ResponseList(Answer):
    participant: PidShown
    protocol_version: str
    items: list[ResponseRead]
    next: str | None = None


class ResponseFilter(Filter):
    instrument: Code | None = None


class DescriptiveStatistics(Answer):
    """Mean and spread of a sample: standard deviation with n - 1, interval around the mean."""

    n: int
    mean: float | None
    sd: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    ci_method: str | None


class VisitSummary(Answer):
    visit_code: str
    administered: int
    """Number of outcomes, with and without a value."""

    value: DescriptiveStatistics
    change: DescriptiveStatistics
    """Change from the participant's own baseline, of those who have both values."""

    responders: int | None
    """Participants with a response, of those with both values (or with one, where the threshold is absolute); null if
    the protocol defines no response."""

    remitters: int | None


class OutcomeSummary(Answer):
    as_of: InstantShown
    study: str
    instrument: str
    score: str
    baseline: str
    """The visit that the others are compared with."""

    items: list[VisitSummary]
    next: str | None = None


class OutcomeSummaryQuery(Filter):
    study: Code
    site: Code | None = None
    instrument: Code
    score: Code = "total"
    by: Literal["visit"] = "visit"
    arm: Code | None = None
    """Only participants of this actual arm."""
