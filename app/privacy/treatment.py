"""How the columns of an extract may be treated, and which classes of fields allow each treatment."""

from collections.abc import Mapping
from enum import StrEnum

from app.privacy.fields import FieldClass
from app.privacy.lattice import K
from app.privacy.quasi import OTHER, SINCE_DOSE

RARE_TERM_PERSONS = K
"""At least this many participants of the extract share a term or code that is shown under the treatments `common_...`
and `spread_...`."""


class Treatment(StrEnum):
    """What is done to the values of a column. The values are the texts of the codebook. Names with `_of_first`,
    `_english`, `_of_all` and `since_dosing_visit`, and `primary_suppression`, are of earlier versions of the
    profiles."""

    as_stored = "as stored"
    primary_suppression = (
        "counts rounded to 5, of 1 to 12 hidden; means and SD of 13 people or more, the coarser the fewer they are"
    )
    secondary_suppression_of_first = (
        "counts rounded to 5, of 1 to 12 hidden, and as many more as it takes that each of these stays open over five "
        "counts; means and SD of 13 people or more, the coarser the fewer they are"
    )
    secondary_suppression = (
        f"{secondary_suppression_of_first}; "
        "scores of first occurrences, of screening visits of that of the last screening"
    )
    declared = "name of a table, or of its rows and columns, that the profile declares"
    coarsened = f"coarsened for everybody until each class has {K} people or more; the manifest says how far"
    common_term = f"term shared by at least {RARE_TERM_PERSONS} participants of the extract, else {OTHER}"
    common_code = (
        f"code shared by at least {RARE_TERM_PERSONS} participants of the extract, else {OTHER}; where one code alone "
        f"would be, the next rarest is {OTHER} too"
    )
    spread_term = (
        f"term shared by at least {RARE_TERM_PERSONS} participants of the extract and in no class by more than nine in "
        f"ten, else {OTHER}; none of suicidality (words of MedDRA's languages), nor of an event whose special interest "
        "is not released"
    )
    spread_english_term = (
        f"term shared by at least {RARE_TERM_PERSONS} participants of the extract and in no class by more than nine in "
        f"ten, else {OTHER}; none of suicidality, nor of an event whose special interest is not released"
    )
    spread_interest = (
        f"code of the list that is released, shared by at least {RARE_TERM_PERSONS} participants of the extract and in "
        f"no class by more than nine in ten, else {OTHER}; where one alone would be, the next rarest is {OTHER} too"
    )
    serious = "as stored; not released where all or none of the extract have it"
    since_dose = (
        f"class of days since the last dosing visit whose initial dose was not left out: {', '.join(SINCE_DOSE)}"
    )
    since_dosing_visit = f"class of days since the last dosing visit: {', '.join(SINCE_DOSE)}"
    study_day = "study day: day 1 is the first of the protocol's anchor visits that took place; there is no day 0"
    subject = "random identifier: of this extract, or of the project under its agreement"
    timing = (
        "early, in_window or late against the window of the protocol; empty where there is none, as at a screening "
        "that another one followed"
    )
    timing_of_all = "early, in_window or late against the window of the protocol; empty where there is none"
    under_agreement = "as stored, for a named project under an agreement"


FITTING: Mapping[Treatment, frozenset[FieldClass]] = {
    Treatment.as_stored: frozenset({FieldClass.clinical}),
    Treatment.coarsened: frozenset({FieldClass.quasi}),
    Treatment.primary_suppression: frozenset({FieldClass.clinical}),
    Treatment.secondary_suppression: frozenset({FieldClass.clinical}),
    Treatment.secondary_suppression_of_first: frozenset({FieldClass.clinical}),
    Treatment.declared: frozenset({FieldClass.operational}),
    Treatment.common_code: frozenset({FieldClass.clinical}),
    Treatment.common_term: frozenset({FieldClass.clinical}),
    Treatment.serious: frozenset({FieldClass.clinical}),
    Treatment.spread_interest: frozenset({FieldClass.clinical}),
    Treatment.spread_term: frozenset({FieldClass.clinical}),
    Treatment.spread_english_term: frozenset({FieldClass.clinical}),
    Treatment.since_dose: frozenset({FieldClass.date}),
    Treatment.since_dosing_visit: frozenset({FieldClass.date}),
    Treatment.study_day: frozenset({FieldClass.date}),
    Treatment.subject: frozenset({FieldClass.direct}),
    Treatment.timing: frozenset({FieldClass.date}),
    Treatment.timing_of_all: frozenset({FieldClass.date}),
    Treatment.under_agreement: frozenset({FieldClass.clinical, FieldClass.quasi}),
}
TIMINGS = frozenset({Treatment.timing, Treatment.timing_of_all})
SECONDARY_SUPPRESSION = frozenset({Treatment.secondary_suppression, Treatment.secondary_suppression_of_first})
CLASSES_OF_DAYS = frozenset({Treatment.since_dose, Treatment.since_dosing_visit})
MADE_HERE = frozenset({Treatment.subject}) | TIMINGS | CLASSES_OF_DAYS
FOR_AGREEMENTS = frozenset({Treatment.study_day, Treatment.under_agreement})
"""Never in a profile that is released without an agreement."""
