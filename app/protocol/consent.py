"""Consent as a protocol defines it: versions with scopes, and amendments with who must consent again."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from enum import StrEnum
from typing import Annotated, Literal

from app.protocol.base import Code, Codes, Day, Definition, Listed, SomeCodes, Text


class ConsentScope(StrEnum):
    """The parts of a consent, which a participant can give and withdraw one by one. Code elsewhere depends on these
    names."""

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
"""The statuses in which a participant can be asked to consent again."""


class Amendment(Definition):
    """A change of the protocol: the version that it made, the day from which it is in force, and who must consent
    again."""

    version: Code
    valid_from: Day
    summary: Text
    reconsent: Annotated[tuple[Standing, ...], Listed] = ()
    """Participants with these statuses sign `consent`; nobody if it is empty."""

    consent: Code | None = None
    source: Text


def current_consent(
    consents: Iterable[ConsentVersion], amendments: Iterable[Amendment], on: date
) -> ConsentVersion | None:
    """The consent version in force on a day; of several from the same day, the last one listed."""
    starts = _starts(consents, amendments)
    valid = [one for one in consents if starts[one.version] <= on]
    return max(reversed(valid), key=lambda one: starts[one.version], default=None)


def wanted_consent(
    consents: Collection[ConsentVersion],
    amendments: Sequence[Amendment],
    on: date,
    statuses: Collection[str],
    since: date,
) -> Code | None:
    """The newest consent version that a participant with one of these statuses was asked to sign by a day: the one in
    force when they first consented (`since`), or that of a later amendment, oldest first. Without amendments the
    protocol does not say who signs a newer version, so everybody does."""
    first = current_consent(consents, amendments, min(on, since) if amendments else on)
    starts = _starts(consents, amendments)
    candidates = [(starts[first.version], first.version)] if first else []
    candidates += [
        (one.valid_from, one.consent)
        for one in amendments
        if one.consent is not None and one.valid_from <= on and not set(statuses).isdisjoint(one.reconsent)
    ]
    return max(reversed(candidates), key=lambda one: one[0], default=(None, None))[1]


def _starts(consents: Iterable[ConsentVersion], amendments: Iterable[Amendment]) -> Mapping[str, date]:
    """The day from which each version is in force: its own, or that of the amendment that introduced it."""
    brought = {one.consent: one.valid_from for one in amendments}
    return {one.version: one.valid_from or brought.get(one.version, date.min) for one in consents}
