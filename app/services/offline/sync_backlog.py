"""The acts that a call of sync has to carry out, and their order. Knows nothing of requests and of the database."""

from collections.abc import Iterable
from enum import IntEnum
from uuid import UUID

from app.services.offline.sync_shelf import Act, ActMade, pids_in


class Rank(IntEnum):
    """Of the acts that can be carried out, those of the lowest rank come next."""

    correction = 0
    """Of the version that another act left, before a third one leaves a newer version."""

    record = 1

    dose = 2
    """After the vital signs of the day: by them a dose may have to be withheld."""

    conflict = 3
    """Was refused in this call for the state of a record."""

    closing = 4
    """Nothing can be added to a session afterwards."""


class Backlog:
    """What is left to carry out, and what has been made so far."""

    def __init__(self, acts: Iterable[Act], made: dict[str, ActMade], unborn: set[str]) -> None:
        self._acts = {act.id: act for act in acts}
        self._corrected = {act.corrects for act in self._acts.values()}
        self.made = made
        """What acts have made, by their names."""

        self._unborn = unborn
        """Reserved pids that acts refer to and that nobody is enrolled under yet."""

        self._conflicts: dict[UUID, int] = {}
        """Acts that met a conflict, with how much was made by then: once there is more, they are tried again."""

    def turn(self) -> list[Act]:
        """The acts to carry out next, all of one rank, in the order in which they were sent."""
        able = [act for act in self._acts.values() if self._is_able(act)]
        first = min(map(self._rank, able), default=None)
        return [act for act in able if self._rank(act) == first]

    def _is_able(self, act: Act) -> bool:
        return self._conflicts.get(act.id, -1) < len(self.made) and not self._lacked_by(act)

    def _rank(self, act: Act) -> Rank:
        if act.closes:
            return Rank.closing
        if act.id in self._conflicts:
            return Rank.conflict
        if act.corrects:
            return Rank.correction
        return Rank.dose if act.doses else Rank.record

    def _lacked_by(self, act: Act) -> set[str]:
        return {*(act.names - self.made.keys()), *(act.pids & self._unborn)}

    def lacking(self) -> dict[UUID, set[str]]:
        """The acts that are left and were not refused, with the names and pids that each refers to and that no record
        stands behind yet."""
        return {one: self._lacked_by(act) for one, act in self._acts.items() if one not in self._conflicts}

    def drop(self, act: Act) -> None:
        """Leave an act alone for the rest of the call: it was refused for good, or has to wait."""
        del self._acts[act.id]
        self._conflicts.pop(act.id, None)

    def retry(self, act: Act) -> None:
        """Try an act that met a conflict once more when something was stored. What it met in earlier calls is past."""
        self._conflicts[act.id] = len(self.made)
        self._acts[act.id] = act._replace(obstacle=None)

    def store(self, act: Act, made: ActMade) -> None:
        """An act was carried out: others may refer to what it made."""
        self.drop(act)
        self.made[act.name] = made
        self._unborn -= pids_in(made.id)

    def may_be_corrected(self, act: Act) -> bool:
        """Whether an act left a version that another one corrects."""
        return act.name in self.made and act.name in self._corrected
