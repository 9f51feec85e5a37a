"""The sampling plan of source data verification: reproducible, in proportion, and about fields that exist."""

import hashlib
import hmac
import random

import pytest

from app.models.adverse_event_shapes import AdverseEventRead
from app.models.base import Answer
from app.models.dosing_shapes import DosingSessionDetail
from app.models.outcome import OutcomeRead
from app.models.participant import ParticipantRead
from app.models.visit import VisitDetail
from app.protocol.verification import CHECKABLE, RecordKind, Verification

SYMBOLS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def plan(share: float, seed: str = "S1") -> Verification:
    critical = [{"record": "visit", "fields": ["occurred_on"], "source": "made up"}]
    return Verification.model_validate({"share": share, "seed": seed, "critical": critical, "source": "made up"})


def people(number: int, seed: int) -> list[str]:
    drawn = random.Random(seed)
    return ["".join(drawn.choices(SYMBOLS, k=12)) for _ in range(number)]


def drawn_by_hand(seed: str, study: str, pid: str, share: float) -> bool:
    """The rule of docs/verification-and-locks.md, written anew."""
    digest = hmac.new(seed.encode(), f"{study}/{pid}".encode(), hashlib.sha256).hexdigest()
    return int(digest[:16], 16) / 2**64 < share


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_anybody_draws_the_same_participants_and_about_the_share(share: float) -> None:
    pids = people(4000, seed=7)
    sampled = [pid for pid in pids if plan(share).sampled("MDMA-1", pid)]
    assert sampled == [pid for pid in pids if drawn_by_hand("S1", "MDMA-1", pid, share)]
    assert abs(len(sampled) / len(pids) - share) < 4 * (share * (1 - share) / len(pids)) ** 0.5


def test_the_lot_of_one_participant_hangs_on_study_seed_and_pid_alone() -> None:
    pids = people(400, seed=8)

    def lots(study: str, seed: str) -> list[bool]:
        return [plan(0.5, seed).sampled(study, pid) for pid in pids]

    assert lots("MDMA-1", "S1") == lots("MDMA-1", "S1")
    assert lots("MDMA-1", "S1") != lots("MDMA-1", "S2")
    assert lots("MDMA-1", "S1") != lots("MDMA-2", "S1")


def test_a_larger_share_keeps_everybody_who_was_drawn() -> None:
    pids = people(400, seed=9)
    quarter, half = ({pid for pid in pids if plan(share).sampled("M", pid)} for share in (0.25, 0.5))
    assert quarter < half
    assert all(plan(1.0).sampled("M", pid) for pid in pids)


def test_the_fields_that_a_plan_may_name_are_fields_of_the_records() -> None:
    shown: dict[RecordKind, type[Answer]] = {
        RecordKind.participant: ParticipantRead,
        RecordKind.visit: VisitDetail,
        RecordKind.outcome: OutcomeRead,
        RecordKind.adverse_event: AdverseEventRead,
        RecordKind.dosing_session: DosingSessionDetail,
    }
    assert set(CHECKABLE) == set(RecordKind)
    for kind, fields in CHECKABLE.items():
        assert fields <= set(shown[kind].model_fields), kind
