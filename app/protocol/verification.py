"""Targeted source data verification: which fields are compared with the source, and of which participants.

ICH E6(R3), section 3.11.4, asks for monitoring in proportion to risk instead of checking everything everywhere.
"""

import hmac
from collections.abc import Iterator, Mapping
from enum import StrEnum
from fractions import Fraction
from typing import Annotated

from pydantic import Field, Strict

from app.protocol.base import Code, Codes, Definition, Listed, ProtocolFault, Share, SomeCodes, Text, repeated


class RecordKind(StrEnum):
    """The kinds of records, which are verified as a whole at one version."""

    adverse_event = "adverse_event"
    dosing_session = "dosing_session"
    outcome = "outcome"
    participant = "participant"
    visit = "visit"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


CHECKABLE: Mapping[RecordKind, frozenset[str]] = {
    RecordKind.participant: _names(
        "age_at_consent sex race ethnicity planned_arm actual_arm screened_on enrolled_on status status_on "
        "eligible unmet_criteria"
    ),
    RecordKind.visit: _names("visit_code occurrence occurred_on ended_on status deviation_reason"),
    RecordKind.outcome: _names("collected_on items"),
    RecordKind.adverse_event: _names(
        "term codings onset end severity criteria relatedness_drug relatedness_therapy action_taken outcome expected "
        "special_interest aware_at"
    ),
    RecordKind.dosing_session: _names(
        "started_at ended_at released_at staff confirmations discharge medications doses vitals"
    ),
}
"""The fields that come from a source document, by record."""


class CriticalFields(Definition):
    """The fields of one kind of record on which the study's conclusions or the participants' safety depend."""

    record: Annotated[RecordKind, Strict(False)]
    fields: SomeCodes
    instruments: Codes = ()
    """For outcomes: only those of these instruments; all if empty."""

    source: Text


class Verification(Definition):
    """The plan: the critical fields of a share of the participants, drawn anew for each seed."""

    share: Share
    """The share of the participants, each of whom is drawn independently: 0.25 is about a quarter."""

    seed: Code
    critical: Annotated[tuple[CriticalFields, ...], Listed, Field(min_length=1)]
    source: Text

    def sampled(self, study: str, pid: str) -> bool:
        """Whether this participant is drawn: by HMAC-SHA256 of `study/pid` under the seed, whose first 8 bytes are
        taken as a share of 2^64. Anybody can repeat the draw, and later enrolments do not change it. `pid` is its 12
        symbols."""
        digest = hmac.digest(self.seed.encode(), f"{study}/{pid}".encode(), "sha256")
        return int.from_bytes(digest[:8]) < Fraction(str(self.share)) * 2**64

    def of(self, record: RecordKind) -> CriticalFields | None:
        """None for a kind of record that the plan leaves out."""
        return next((critical for critical in self.critical if critical.record is record), None)


def verification_faults(plan: Verification, asked: frozenset[str]) -> Iterator[ProtocolFault]:
    """`asked`: the instruments of the schedule."""
    yield from repeated("/verification/critical/*/record", "record", (critical.record for critical in plan.critical))
    for position, critical in enumerate(plan.critical):
        path = f"/verification/critical/{position}"
        yield from repeated(f"{path}/fields/*", "field", critical.fields)
        yield from repeated(f"{path}/instruments/*", "instrument", critical.instruments)
        for place, field in enumerate(critical.fields):
            if field not in CHECKABLE[critical.record]:
                yield ProtocolFault(f"{path}/fields/{place}", "unknown_field", f"{critical.record} has no {field}")
        if critical.instruments and critical.record is not RecordKind.outcome:
            yield ProtocolFault(f"{path}/instruments", "instruments_of_outcomes", "Only outcomes have instruments")
        for place, code in enumerate(critical.instruments):
            if code not in asked:
                yield ProtocolFault(
                    f"{path}/instruments/{place}", "instrument_never_asked", f"No visit asks for {code}"
                )
