"""Counts of adverse events by group, as safety tables show them."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.models.base import Answer, Code, Filter, InstantShown, QueryBool


class AeGrouping(StrEnum):
    arm = "arm"
    pt = "pt"
    relatedness = "relatedness"
    relatedness_therapy = "relatedness_therapy"
    severity = "severity"
    site = "site"
    soc = "soc"


class Population(StrEnum):
    """Who is counted in denominators: everybody, those enrolled, or those who had a dose."""

    all = "all"
    enrolled = "enrolled"
    safety = "safety"


def _split(given: Any) -> Any:
    return given.split(",") if isinstance(given, str) else given


def _once(groups: list[AeGrouping]) -> list[AeGrouping]:
    if len(set(groups)) < len(groups):
        raise PydanticCustomError("group_twice", "Name each group once")
    return groups


class AeSummaryQuery(Filter):
    study: Code
    site: Code | None = None
    by: Annotated[
        list[AeGrouping],
        BeforeValidator(_split),
        AfterValidator(_once),
        WithJsonSchema({"type": "string", "examples": ["soc,pt"]}),
    ] = []
    """Comma-separated; without any, one row for all events."""

    population: Population = Population.safety
    emergent: QueryBool = False
    """Only events that can have begun on or after the day of the first dose."""

    serious: QueryBool | None = None


class AeSummaryRow(Answer):
    group: dict[str, str]
    participants: int
    denominator: int
    percent: float | None
    events: int
    person_years: float
    events_per_100_person_years: float | None
    first_events_per_100_person_years: float | None


class AeSummary(Answer):
    """A participant counts once in each row, by the worst severity. Rows are in a fixed order."""

    as_of: InstantShown
    study: str
    population: Population
    participants: int
    """The number of participants of the population at the sites asked for."""

    items: list[AeSummaryRow]
    next: str | None = None
