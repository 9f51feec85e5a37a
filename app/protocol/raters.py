"""Who may rate: outcomes that must not come from somebody who treats the participant."""

from collections.abc import Collection

from app.protocol.base import Code, Definition, SomeCodes, Text


class RaterIndependence(Definition):
    """The rater of these instruments is none of the participant's therapists."""

    code: Code
    instruments: SomeCodes
    source: Text

    def broken_by(self, instrument: str, rater: str, therapists: Collection[str]) -> bool:
        return instrument in self.instruments and rater in therapists
