"""The quasi-identifiers of the `deidentified` profile and how they are coarsened.

The highest age band is open, so that a rare old age does not stand out (45 CFR 164.514(b)(2)(i)(C) asks for this from
90 on; among as few people as in a trial it has to begin earlier). No label can be read as a spreadsheet formula.
"""

from app.privacy.lattice import Level, QuasiIdentifier, Value


def _bands(width: int, top: int) -> Level:
    def of(value: Value) -> str | None:
        if not isinstance(value, int):
            return None
        low = value - value % width
        return f"GE{top}" if value >= top else f"{low}-{low + width - 1}"

    return Level(f"{width}-year bands, open from {top}", of)


def _cuts(*edges: int) -> Level:
    def of(value: Value) -> str | None:
        if not isinstance(value, int):
            return None
        low = max((edge for edge in edges if edge <= value), default=None)
        high = min((edge for edge in edges if edge > value), default=None)
        if low is None:
            return f"LT{high}"
        return f"GE{low}" if high is None else f"{low}-{high - 1}"

    return Level(f"{len(edges) + 1} bands", of)


def _grouped(name: str, own: str, other: str) -> Level:
    """One value, and all others together."""
    return Level(name, lambda value: None if value is None else own if value == own else other)


DAYS_SINCE_DOSE = {"D0": 0, "D1": 1, "D2-7": 7, "D8-28": 28}
"""Classes of days since the last dosing visit, each with its last day."""

SINCE_DOSE = ("BEFORE", *DAYS_SINCE_DOSE, "GT28")
OTHER = "OTHER"
RACES = frozenset(
    {
        "AMERICAN INDIAN OR ALASKA NATIVE",
        "ASIAN",
        "BLACK OR AFRICAN AMERICAN",
        "MULTIPLE",
        "NOT REPORTED",
        "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER",
        "OTHER",
        "UNKNOWN",
        "WHITE",
    }
)
"""CDISC controlled terminology, codelist C74457. Any other text was typed, and is shown as OTHER."""

ETHNICITIES = frozenset({"HISPANIC OR LATINO", "NOT HISPANIC OR LATINO", "NOT REPORTED", "UNKNOWN"})
"""CDISC controlled terminology, codelist C66790."""


def coded(value: Value, codes: frozenset[str]) -> str | None:
    return None if value is None else str(value) if value in codes else OTHER


AS_STORED = Level("as stored", lambda value: None if value is None else str(value))
NOTHING = Level("not released", lambda _: None)

QUASI_IDENTIFIERS = (
    QuasiIdentifier("age_group", "Age at consent", (_bands(5, 75), _bands(10, 70), _cuts(35, 55), _cuts(45), NOTHING)),
    QuasiIdentifier("sex", "Sex at birth", (AS_STORED, NOTHING)),
    QuasiIdentifier(
        "race",
        "Race",
        (
            Level("codes of CDISC", lambda value: coded(value, RACES)),
            _grouped("WHITE, and all others", "WHITE", OTHER),
            NOTHING,
        ),
    ),
    QuasiIdentifier("country", "Country of the site", (AS_STORED, NOTHING), weight=0.5),
    QuasiIdentifier(
        "status",
        "Status in the study",
        (AS_STORED, _grouped("completed, and all others", "completed", "not_completed"), NOTHING),
        weight=0.5,
    ),
)
"""In the order of the columns of ExtractSubject."""
