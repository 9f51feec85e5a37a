"""Eligibility: the answers to a protocol's criteria, and the decision that follows."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Literal, NamedTuple

from app.protocol.base import Code, Definition, Text


class Criterion(Definition):
    """An eligibility criterion. Met means answered as the study requires, for exclusion criteria too."""

    code: Code
    kind: Literal["inclusion", "exclusion"]
    label: Text
    may_not_apply: bool = False
    source: Text | None = None


class CriterionAnswer(StrEnum):
    met = "met"
    not_met = "not_met"
    not_applicable = "not_applicable"


class UnknownCriterion(LookupError):
    """The protocol has no criterion of this code."""


class Eligibility(NamedTuple):
    eligible: bool | None
    """None: not decided, as criteria are open and none is unmet."""

    unmet: tuple[str, ...]
    open: tuple[str, ...]
    """Not answered, or answered "not applicable" where the criterion always applies."""


def eligibility(criteria: Iterable[Criterion], answers: Mapping[str, CriterionAnswer]) -> Eligibility:
    """The eligibility by these answers. One unmet criterion decides, even if others are open. Raises
    UnknownCriterion."""
    listed = list(criteria)
    if not answers.keys() <= {criterion.code for criterion in listed}:
        raise UnknownCriterion("The protocol has no such criterion")
    unmet = tuple(one.code for one in listed if answers.get(one.code) is CriterionAnswer.not_met)
    unanswered = tuple(one.code for one in listed if not _answered(one, answers.get(one.code)))
    return Eligibility(False if unmet else None if unanswered else True, unmet, unanswered)


def _answered(criterion: Criterion, answer: CriterionAnswer | None) -> bool:
    return answer is not None and (answer is not CriterionAnswer.not_applicable or criterion.may_not_apply)
