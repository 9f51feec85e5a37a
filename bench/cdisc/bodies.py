"""Request bodies made from source rows. A word that the pilot does not use raises KeyError: nothing is guessed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.cdisc import plan

Row = Mapping[str, Any]
Body = dict[str, Any]

NOT_APPLICABLE = 96
"""QSDA.QSSTRESN of a DAD item that does not apply to the person; sent as null."""

SCREEN_FAILURE, NO_ARM = "SCREEN FAILURE", "Scrnfail"
SEVERITY = {"MILD": "mild", "MODERATE": "moderate", "SEVERE": "severe"}
RELATEDNESS = {"NONE": "not_related", "REMOTE": "unlikely", "POSSIBLE": "possible", "PROBABLE": "probable", None: None}
OUTCOME = {"FATAL": "fatal", "NOT RECOVERED/NOT RESOLVED": "not_recovered", "RECOVERED/RESOLVED": "recovered"}
CRITERIA = {
    "AESDTH": "death",
    "AESLIFE": "life_threatening",
    "AESHOSP": "hospitalisation",
    "AESDISAB": "disability",
    "AESCONG": "congenital_anomaly",
}
LEVELS = {"AELLT": "llt", "AEDECOD": "pt", "AEHLT": "hlt", "AEHLGT": "hlgt", "AESOC": "soc"}
STATUS = {
    "COMPLETED": "completed",
    "DEATH": "died",
    "LOST TO FOLLOW-UP": "lost_to_follow_up",
    "STUDY TERMINATED BY SPONSOR": "terminated",
    "ADVERSE EVENT": "terminated",
    "LACK OF EFFICACY": "terminated",
    "PHYSICIAN DECISION": "terminated",
    "PROTOCOL DEVIATION": "terminated",
    "WITHDRAWAL BY SUBJECT": "withdrawn",
}
"""DS.DSDECOD to the registry's status; the source's own word goes into the reason."""

YES = {"Y": True, "N": False}


def participant(study: str, demographics: Row, disposition: Row) -> Body:
    """DM, and the screen failures of DS. The day of consent is absent in the source and is sent as unknown."""
    failed = disposition["DSDECOD"] == SCREEN_FAILURE
    return _given(
        study=study,
        site=demographics["SITEID"],
        site_local_id=demographics["SUBJID"],
        protocol_version=plan.definition()["version"],
        age_at_consent=whole(demographics["AGE"]),
        sex=demographics["SEX"],
        race=demographics["RACE"],
        ethnicity=demographics["ETHNIC"],
        planned_arm=_arm(demographics["ARMCD"]),
        actual_arm=_arm(demographics["ACTARMCD"]),
        screened_on=demographics["DMDTC"],
        enrolled_on=demographics["RFSTDTC"],
        eligibility={"met": not failed, "unmet": []},
    ) | {"consent": {"version": "1", "given_on": demographics["RFICDTC"], "scopes": ["main", "data_sharing"]}}


def statuses(demographics: Row, disposition: Row, entry_criteria: Sequence[Row]) -> list[Body]:
    """The way from enrolment to the end of the study. Screen failures are told by their enrolment already."""
    if disposition["DSDECOD"] == SCREEN_FAILURE:
        return []
    reason = f"{disposition['DSDECOD']}: {disposition['DSTERM']}"
    reason += "".join(f" (criterion {row['QVAL']})" for row in entry_criteria)
    return [
        {"status": "active", "effective_on": demographics["RFXSTDTC"], "reason": "First dose, DM.RFXSTDTC"},
        {"status": STATUS[disposition["DSDECOD"]], "effective_on": disposition["DSSTDTC"], "reason": reason},
    ]


def visits(rows: Iterable[Row], outcomes: Mapping[str, Sequence[Body]]) -> list[Body]:
    """SV rows of one participant with the outcomes of each visit, anchors before the visits that hang on them.

    Unscheduled visits are numbered in the order of VISITNUM; what follows its point is a count, not a measure, and
    holds rounding errors.
    """
    made: list[Body] = []
    unscheduled = 0
    for row in sorted(rows, key=lambda row: round(row["VISITNUM"], 1)):
        code = plan.visit_code(row["VISIT"])
        unscheduled += code == plan.UNSCHEDULED
        made.append(
            {
                "visit_code": code,
                "occurrence": unscheduled if code == plan.UNSCHEDULED else 1,
                "occurred_on": row["SVSTDTC"],
                "ended_on": row["SVENDTC"],
                "status": "completed",
                "outcomes": list(outcomes.get(row["VISIT"], [])),
            }
        )
    return sorted(made, key=lambda body: plan.depth(body["visit_code"]))


def outcome(instrument: str, rows: Sequence[Row]) -> Body:
    """All items of one administration."""
    items = {row["QSTESTCD"]: whole(row["QSSTRESN"]) for row in rows}
    (collected_on,) = {row["QSDTC"] for row in rows}
    return {
        "instrument": instrument,
        "instrument_version": "1",
        "collected_on": collected_on,
        "items": {code: None if value == NOT_APPLICABLE else value for code, value in items.items()},
    }


def adverse_event(row: Row) -> Body:
    """AE. Criteria are sent as the source has them, and its own flag AESER beside them."""
    return _given(
        term=row["AETERM"],
        codings=[
            {"system": "MedDRA", "term": row[column], "level": level} for column, level in LEVELS.items() if row[column]
        ],
        end=row["AEENDTC"],
        severity=SEVERITY[row["AESEV"]],
        criteria={name: YES[row[column]] for column, name in CRITERIA.items()},
        serious_as_reported=YES[row["AESER"]],
        relatedness_drug=RELATEDNESS[row["AEREL"]],
        outcome=OUTCOME[row["AEOUT"]],
    ) | {"onset": row["AESTDTC"]}


def whole(value: float) -> int:
    """The source keeps whole numbers as floats. Raises ValueError for any other."""
    if value != int(value):
        raise ValueError("not a whole number")
    return int(value)


def _arm(code: str) -> str | None:
    return None if code == NO_ARM else code


def _given(**fields: Any) -> Body:
    """Only what the source states: an absent field, not a null one."""
    return {name: value for name, value in fields.items() if value is not None}
