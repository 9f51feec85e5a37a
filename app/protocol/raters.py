"""Who may rate: outcomes that must not come from somebody who treats the participant."""

from collections.abc import Collection
from functools import cached_property

from app.protocol.base import Code, Definition, SomeCodes, Text
from app.protocol.instruments import instruments


class RaterIndependence(Definition):
    """The rater of these instruments is none of the participant's therapists."""

    code: Code
    instruments: SomeCodes
    source: Text

    @cached_property
    def covers(self) -> frozenset[str]:
        """The instruments, and those that are their form once more: as a safety rule, it holds there too."""
        again = (one.code for one in instruments().values() if one.form_of in self.instruments)
        return frozenset({*self.instruments, *again})

    def broken_by(self, instrument: str, rater: str, therapists: Collection[str]) -> bool:
        return instrument in self.covers and rater in therapists
