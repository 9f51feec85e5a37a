"""Eligibility answers, consent versions, and who must consent again after an amendment."""

from datetime import date
from typing import Any

import pytest

from app.protocol.consent import Amendment, ConsentVersion, current_consent, wanted_consent
from app.protocol.eligibility import CriterionAnswer, UnknownCriterion, eligibility
from app.protocol.schedule import shipped_protocols

CRITERIA = shipped_protocols()["mdma-mdd-generic/1"].eligibility
MET = {criterion.code: CriterionAnswer.met for criterion in CRITERIA}


@pytest.mark.parametrize(
    ("change", "eligible", "unmet", "still_open"),
    [
        ({}, True, (), ()),
        ({"EXCL08": CriterionAnswer.not_met}, False, ("EXCL08",), ()),
        ({"EXCL02": CriterionAnswer.not_met, "INCL01": CriterionAnswer.not_met}, False, ("INCL01", "EXCL02"), ()),
        ({"INCL05": CriterionAnswer.not_applicable, "EXCL06": CriterionAnswer.not_applicable}, True, (), ()),
        ({"INCL01": CriterionAnswer.not_applicable}, None, (), ("INCL01",)),
        ({"INCL01": None}, None, (), ("INCL01",)),
        ({"INCL01": None, "EXCL08": CriterionAnswer.not_met}, False, ("EXCL08",), ("INCL01",)),
    ],
)
def test_answers_come_to_a_decision(
    change: dict[str, Any], eligible: bool | None, unmet: tuple[str, ...], still_open: tuple[str, ...]
) -> None:
    answers = {code: answer for code, answer in {**MET, **change}.items() if answer is not None}
    assert eligibility(CRITERIA, answers) == (eligible, unmet, still_open)


def test_no_answers_decide_nothing() -> None:
    assert eligibility(CRITERIA, {}) == (None, (), tuple(MET))


def test_an_answer_to_no_criterion_is_refused() -> None:
    with pytest.raises(UnknownCriterion):
        eligibility(CRITERIA, {**MET, "INCL99": CriterionAnswer.met})


def consent(version: str, valid_from: date | None = None) -> ConsentVersion:
    return ConsentVersion(version=version, scopes=("main",), valid_from=valid_from)


CONSENTS = [consent("3", date(2026, 6, 1)), consent("1"), consent("2", date(2026, 3, 1))]


@pytest.mark.parametrize(
    ("on", "version"),
    [
        (date(2026, 2, 28), "1"),
        (date(2026, 3, 1), "2"),
        (date(2026, 5, 31), "2"),
        (date(2026, 6, 1), "3"),
    ],
)
def test_the_current_consent_is_the_latest_that_holds(on: date, version: str) -> None:
    found = current_consent(CONSENTS, (), on)
    assert found is not None
    assert found.version == version


def test_of_two_from_the_same_day_the_last_one_listed_holds() -> None:
    assert current_consent([consent("1"), consent("2")], (), date(2026, 1, 1)) == consent("2")
    assert current_consent([consent("2", date(2026, 3, 1))], (), date(2026, 1, 1)) is None


AMENDMENT = Amendment(
    version="2",
    valid_from=date(2026, 3, 1),
    summary="A second blood sample",
    reconsent=("enrolled", "active"),
    consent="2",
    source="made up",
)


JANUARY, MARCH, APRIL = date(2026, 1, 5), date(2026, 3, 1), date(2026, 4, 1)
FORMS = [consent("1"), consent("2")]


@pytest.mark.parametrize(
    ("on", "status", "since", "version"),
    [
        (MARCH, "active", JANUARY, "2"),
        (MARCH, "enrolled", JANUARY, "2"),
        (date(2026, 2, 28), "active", JANUARY, "1"),
        (APRIL, "completed", JANUARY, "1"),
        (APRIL, "withdrawn", JANUARY, "1"),
        (APRIL, "completed", MARCH, "2"),
        (APRIL, "screened", date.min, "1"),
    ],
)
def test_who_must_consent_again(on: date, status: str, since: date, version: str) -> None:
    assert wanted_consent(FORMS, [AMENDMENT], on, {status}, since) == version


def test_a_participant_who_signed_a_later_form_need_not_sign_an_earlier_one() -> None:
    third = AMENDMENT.model_copy(update={"version": "3", "valid_from": APRIL, "consent": "3"})
    forms, both = [*FORMS, consent("3")], [AMENDMENT, third]
    assert wanted_consent(forms, both, date(2026, 5, 1), {"active"}, APRIL) == "3"
    assert wanted_consent(forms, both, date(2026, 3, 31), {"active"}, JANUARY) == "2"


def test_an_amendment_that_asks_nobody_again() -> None:
    quiet = Amendment(version="2", valid_from=MARCH, summary="Typing errors", source="made up")
    newer = [consent("1"), consent("2", MARCH)]
    assert wanted_consent(newer, [quiet], APRIL, {"active"}, JANUARY) == "1"
    assert wanted_consent(newer, [quiet], APRIL, {"active"}, MARCH) == "2"


def test_without_amendments_everybody_signs_the_newest_form() -> None:
    assert wanted_consent([consent("1"), consent("2", MARCH)], [], APRIL, {"active"}, JANUARY) == "2"
    assert wanted_consent([consent("2", MARCH)], [], JANUARY, {"active"}, JANUARY) is None
