"""Independent raters: instruments that must not be rated by a therapist of the participant."""

from collections.abc import Collection
from functools import cached_property

from app.protocol.base import Code, Definition, SomeCodes, Text
from app.protocol.instruments import given_as


class RaterIndependence(Definition):
    """The rater of these instruments must not be one of the participant's therapists."""

    code: Code
    instruments: SomeCodes
    source: Text

    @cached_property
    def covers(self) -> frozenset[str]:
        return frozenset().union(*map(given_as, self.instruments))

    def broken_by(self, instrument: str, rater: str, therapists: Collection[str]) -> bool:
        return instrument in self.covers and rater in therapists
