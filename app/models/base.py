"""What tables and shapes share: the strict shape, bounded field types, column and constraint helpers."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Annotated, Any, NamedTuple, Self, cast

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError
from sqlalchemy import CheckConstraint, Row, Table
from sqlmodel import SQLModel

from app.models.partial_date import FIRST_YEAR, LAST_YEAR, span
from app.protocol.base import Code as DefinedCode

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Shape(BaseModel):
    """What goes in and out: unknown fields refused, no coercion, no NaN or Infinity."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, use_attribute_docstrings=True
    )


class Answer(BaseModel):
    """What comes out. Lists its own fields and never inherits from a table, so that a new column cannot leak."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def of_row(cls, row: Mapping[str, Any], **given: Any) -> Self:
        """An answer with these fields as they are `given`, and the others as the row has them."""
        return cls(**given, **{name: row[name] for name in cls.model_fields if name not in given})


class Filter(BaseModel):
    """Query parameters of a list. That no others are sent is a rule of every route (app/web/route.py)."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_AHEAD = timedelta(hours=14)
"""The day is at most this much further than in UTC, at the easternmost sites."""

CLOCK_OFF = timedelta(minutes=15)
"""A moment carries its offset, so it lies ahead only as far as the clock of a site's device does; who sends local time
as UTC is half an hour ahead or more."""

_HANGUL_FILLERS = frozenset("\u115f\u1160")
"""Letters by their category that show nothing."""

STORED = "stored"
"""The context in which a stored record is validated. Only what is sent is compared with the clock, as stored times may
be ahead of a clock that was corrected since. Stored texts stay as they were accepted."""


def _clean(text: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\t" for character in text):
        raise PydanticCustomError("unclean_text", "Control characters and lone surrogates are not allowed")
    return text


def _composed(text: Any) -> Any:
    """NFC, before the length is checked: composing can lengthen a text."""
    return unicodedata.normalize("NFC", text) if isinstance(text, str) else text


def _stripped(text: Any, info: ValidationInfo) -> Any:
    composed = _composed(text)
    return composed.strip() if isinstance(composed, str) and info.context != STORED else composed


def _one_line(text: Any, info: ValidationInfo) -> Any:
    composed = _composed(text)
    return " ".join(composed.split()) if isinstance(composed, str) and info.context != STORED else composed


def _visible(text: str, info: ValidationInfo) -> str:
    if info.context != STORED and any(unicodedata.category(character) == "Cf" for character in text):
        raise PydanticCustomError("unclean_text", "Characters that do not show are not allowed")
    return text


def as_compared(text: str) -> str:
    """A text as people compare it: case, spaces and punctuation do not matter."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


def _telling(text: str, info: ValidationInfo) -> str:
    """Dots, one sign thrice and what does not show say nothing to an inspector."""
    if info.context != STORED and len({*as_compared(text)} - _HANGUL_FILLERS) < 2:
        raise PydanticCustomError("says_nothing", "Must hold at least two different letters or digits")
    return text


def _iso_date(value: Any) -> Any:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _ISO_DATE.fullmatch(value):
        raise PydanticCustomError("date_format", "Must be a date written YYYY-MM-DD")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError("date_format", "Must be a real date written YYYY-MM-DD") from None


def _plausible_year(value: date | datetime) -> Any:
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise PydanticCustomError("date_range", f"The year must lie between {FIRST_YEAR} and {LAST_YEAR}")
    return value


def _in_utc(value: datetime) -> datetime:
    """Stored and compared in UTC, so that is where the year is checked; the first check keeps this from overflowing."""
    return value.astimezone(UTC)


def _not_future(value: date | datetime, info: ValidationInfo) -> Any:
    if info.context == STORED:
        return value
    latest = latest_now()
    if value > latest if isinstance(value, datetime) else value > latest_day(latest):
        raise PydanticCustomError("date_in_future", "Cannot lie in the future")
    return value


def latest_now() -> datetime:
    """By a clock that is a little fast."""
    return now() + CLOCK_OFF


def latest_day(at: datetime) -> date:
    """The day at a moment in UTC where it is latest: at the easternmost sites."""
    return (at + _AHEAD).date()


def _instant_text(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise PydanticCustomError(
            "instant_format", "Must be an RFC 3339 time with offset, such as 2026-03-05T09:30:00Z"
        )
    return value


def _past_partial_date(text: str, info: ValidationInfo) -> str:
    _not_future(span(text).earliest, info)
    return text


def _query_bool(value: Any) -> Any:
    if isinstance(value, str) and value in {"true", "false"}:
        return value == "true"
    if isinstance(value, bool):
        return value
    raise PydanticCustomError("bool_text", "Must be true or false")


def _query_int(value: Any) -> Any:
    if isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 9):
        return int(value)
    raise PydanticCustomError("int_text", "Must be a whole number, digits only")


def _of_pages(value: Any, info: ValidationInfo) -> Any:
    if info.data.get("format") == "csv":
        raise PydanticCustomError("not_paged", "With format=csv everything comes at once, without pages")
    return value


def utc_text(value: datetime) -> str:
    """RFC 3339 in UTC with microseconds: the one written form of an instant, equal on both databases."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, non-ASCII kept: the form that is stored and hashed."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)


Code = DefinedCode
"""What a protocol may name, a request may name too."""

_ONE_LINE = (BeforeValidator(_one_line), AfterValidator(_clean), AfterValidator(_visible))
"""As it is read: two that look alike are the same text, for lists, twins and counts."""

Label = Annotated[str, StringConstraints(min_length=1, max_length=64), *_ONE_LINE]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=200), *_ONE_LINE]
LongText = Annotated[
    str, BeforeValidator(_stripped), StringConstraints(min_length=1, max_length=4000), AfterValidator(_clean)
]
_TELLING = (BeforeValidator(_stripped), AfterValidator(_clean), AfterValidator(_telling))
Reason = Annotated[str, StringConstraints(min_length=3, max_length=1000), *_TELLING]
"""Why a clinical datum changes (ICH E6(R3) 4.2.2): required, and longer than one keystroke."""

LongReason = Annotated[str, StringConstraints(min_length=3, max_length=4000), *_TELLING]

IsoDate = Annotated[
    date,
    BeforeValidator(_iso_date),
    AfterValidator(_plausible_year),
    WithJsonSchema({"type": "string", "format": "date"}),
]
InstantShown = Annotated[datetime, PlainSerializer(utc_text, when_used="json")]
"""A stored instant in an answer. Not checked again: what was accepted can always be read."""

HAPPENED = object()
"""Marks the days that are compared with the site's calendar, once the site is known (app/services/site_days.py)."""

PastDate = Annotated[IsoDate, AfterValidator(_not_future), HAPPENED]
"""A day on which something happened: today at the latest."""

Instant = Annotated[
    AwareDatetime,
    Field(strict=False),
    BeforeValidator(_instant_text),
    AfterValidator(_plausible_year),
    AfterValidator(_in_utc),
    AfterValidator(_plausible_year),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
PastInstant = Annotated[Instant, AfterValidator(_not_future)]
"""A moment at which something happened: now at the latest, by a clock that may be a little fast."""

PartialDate = Annotated[
    str,
    AfterValidator(_past_partial_date),
    HAPPENED,
    WithJsonSchema({"type": "string", "examples": ["2024-03", "2024-03-05"]}),
]
QueryBool = Annotated[bool, BeforeValidator(_query_bool), WithJsonSchema({"type": "boolean"})]
FromQuery = BeforeValidator(_query_int)
"""Stands behind the bounds of a number: before them, the description would not tell them in words of JSON Schema."""

Limit = Annotated[int, Field(ge=1, le=500), FromQuery]
Cursor = Annotated[str | None, Field(max_length=1_000)]
OfPages = AfterValidator(_of_pages)
"""Of a list that may be asked for as a sheet: `limit` or `cursor` would be dropped there. `format` stands before."""

Days = Annotated[int, Field(ge=0, le=36_500), FromQuery]
Positive = Annotated[int, Field(ge=1, le=1_000)]


def one_of(column: str, values: Iterable[str], nullable: bool = False) -> CheckConstraint:
    """CHECK that a text column holds one of the codes: enum columns alone check nothing."""
    listed = ", ".join(f"'{value}'" for value in values)
    rule = f"{column} IN ({listed})"
    return CheckConstraint(f"{column} IS NULL OR {rule}" if nullable else rule, name=f"{column}_known")


def table_of(model: type[SQLModel]) -> Table:
    """The table behind a model: statements on it skip the unit of work, whose bookkeeping hot paths do not need."""
    table: Table = model.__table__  # type: ignore[attr-defined]
    return table


def columns(model: type[SQLModel]) -> tuple[Any, ...]:
    """The columns of a table, for lists: plain rows cost a sixth of model objects."""
    return tuple(table_of(model).c)


def values(row: SQLModel) -> dict[str, Any]:
    """A row's column values as they are in memory."""
    return {column.key: getattr(row, column.key) for column in columns(type(row))}


class _Defaults(NamedTuple):
    """The columns of a table that need not be given: their values, or what makes these."""

    fixed: Mapping[str, Any]
    made: Mapping[str, Callable[[], Any]]


@cache
def _defaults(model: type[SQLModel]) -> _Defaults:
    fields = {column.key: model.model_fields[column.key] for column in columns(model)}
    made = {name: cast("Any", field.default_factory) for name, field in fields.items() if field.default_factory}
    fixed = {name: field.default for name, field in fields.items() if name not in made and not field.is_required()}
    return _Defaults(fixed, made)


def new_row(model: type[SQLModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """All columns of a new row as a plain dict, which costs a fraction of a model object."""
    fixed, made = _defaults(model)
    return {**fixed, **{name: make() for name, make in made.items() if name not in given}, **given}


def fields_of(row: Row[Any]) -> Mapping[str, Any]:
    """A result row by column name, without copying it."""
    return cast("Mapping[str, Any]", row._mapping)


def from_json(text: str) -> Any:
    """A stored JSON text; the empty list, which is what most rows hold, without parsing."""
    return [] if text == "[]" else json.loads(text)


def now() -> datetime:
    """The server's clock, UTC. Tests replace it here."""
    return datetime.now(UTC)
