"""Partial dates (ISO 8601 reduced precision), as CDISC SDTM writes them: what the source knew, never imputed."""

import re
from calendar import monthrange
from datetime import date
from typing import NamedTuple

from pydantic_core import PydanticCustomError

_FORM = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)
FIRST_YEAR, LAST_YEAR = 1900, 2100


class Span(NamedTuple):
    """The days that a partial date may mean, both included."""

    earliest: date
    latest: date


def span(text: str) -> Span:
    """The first and last day that `text` can mean. Raises a field error when it is no partial date."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise PydanticCustomError("partial_date_format", "Must be written YYYY, YYYY-MM or YYYY-MM-DD")
    year, month, day = (None if part is None else int(part) for part in match.groups())
    if year is None or not FIRST_YEAR <= year <= LAST_YEAR:
        raise PydanticCustomError("date_range", f"The year must lie between {FIRST_YEAR} and {LAST_YEAR}")
    first_month, last_month = (1, 12) if month is None else (month, month)
    try:
        earliest = date(year, first_month, 1 if day is None else day)
        last_day = monthrange(year, last_month)[1] if day is None else day
        return Span(earliest, date(year, last_month, last_day))
    except ValueError:
        message = "Must be a real date written YYYY, YYYY-MM or YYYY-MM-DD"
        raise PydanticCustomError("partial_date_format", message) from None
