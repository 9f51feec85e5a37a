"""Consent as a protocol defines it: versions with scopes, and amendments with who must consent again."""

from collections.abc import Collection, Iterable
from datetime import date
from enum import StrEnum
from typing import Annotated, Literal

from app.protocol.base import Code, Codes, Day, Definition, Listed, SomeCodes, Text


class ConsentScope(StrEnum):
    """What a participant can agree to and take back one by one. Code elsewhere acts on these names."""

    main = "main"
    long_follow_up = "long_follow_up"
    data_sharing = "data_sharing"
    recontact = "recontact"
    recording = "recording"


class ConsentVersion(Definition):
    version: Code
    scopes: SomeCodes
    required: Codes = ()
    """Scopes without which nobody takes part."""

    valid_from: Day | None = None
    """None: from the start of the study."""

    source: Text | None = None


Standing = Literal["screened", "enrolled", "active", "completed"]
"""Of the participant's statuses, those in which somebody can be asked again."""


class Amendment(Definition):
    """A change of the protocol: the version that it made, from when it holds, and who must consent again."""

    version: Code
    valid_from: Day
    summary: Text
    reconsent: Annotated[tuple[Standing, ...], Listed] = ()
    """Participants of these statuses sign `consent`; nobody where it is empty."""

    consent: Code | None = None
    source: Text


def current_consent(consents: Iterable[ConsentVersion], on: date) -> ConsentVersion | None:
    """The consent version in force on a day; of several from the same day, the last one listed."""
    valid = [one for one in consents if (one.valid_from or date.min) <= on]
    return max(reversed(valid), key=lambda one: one.valid_from or date.min, default=None)


def to_reconsent(
    amendments: Iterable[Amendment], on: date, status: str, signed: Collection[str]
) -> tuple[Amendment, ...]:
    """Amendments in force for which a participant of this status, who `signed` these versions, must consent again."""
    return tuple(
        one for one in amendments if one.valid_from <= on and status in one.reconsent and one.consent not in signed
    )
