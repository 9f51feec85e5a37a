"""Values that fields of a kind cannot have, and the fields of dosing days with theirs."""

from typing import Any

from tests.hostile_requests import MARK

INTEGER: tuple[Any, ...] = (True, False, "41", "", 41.5, 41.0, 2**31, 2**63, -(2**63) - 1, 10**39, -1, [41], {}, MARK)
DAY = (
    *("2025-02-30", "2025-13-01", "2025-1-2", "20250102", "2025-W01-1", "2025-0010", "0001-01-01", "9999-12-31"),
    *("1899-12-31", "2101-01-01", "2025-01-02T00:00:00Z", "02/01/2025", "", MARK, "\uff12\uff10\uff12\uff15-01-02"),
    *(0, 1735689600, 1735689600.5, True, ["2025-01-02"], {}),
)
PARTIAL = (*(value for value in DAY if value != "20250102"), "2025-00", "2025-3", "2025-03-", "25", "2025-03-05T10")
INSTANT = (
    *("2025-01-02", "2025-01-02T10:00:00", "2025-13-02T10:00:00Z", "0001-01-01T00:00:00+23:59"),
    *("9999-12-31T23:59:59-12:00", "1735689600", "1735689600.0000000000", "17356896000000000000000", "", MARK),
    *(0, 1735689600, 1e18, True, "2025-01-02T25:00:00Z", "2025-01-02T10:00:00+99:00", "2025-01-02T10:00:00Z\0"),
)
TEXT = (
    "   ",
    "\t\n\u00a0",
    "",
    f"{MARK}\0",
    f"{MARK}\ud800",
    f"\udfff{MARK}",
    f"{MARK}\x07",
    f"{MARK}\x7f",
    MARK * 5000,
    5,
    True,
    [MARK],
    {},
)
LINE = (*TEXT, f"{MARK}\u200b", f"{MARK}\u202e", "\ufeff", f"a\u00ad{MARK}")
CODE = ("", f"{MARK} {MARK}", f" {MARK}", f"{MARK}\n", f"-{MARK}", f"{MARK}\0", MARK * 7, f"{MARK}é", 5, True, [MARK])
CHOICE = ("", MARK, MARK.upper(), 5, True, None, [MARK], {})
TRUTH = ("true", "yes", 1, 0, "", MARK, None, [], {})
PID = (
    "",
    MARK,
    "7K3F-9TQ2-XM4E",
    "7K3F-9TQ2-XM4",
    "7K3F9TQ2XM4D\0",
    "7K3F-9TQ2-XM4\ud800",
    "U" * 12,
    5,
    True,
    None,
    [],
)
UUID_LIKE = ("", MARK, "00000000-0000-4000-8000-00000000000", 5, True, None, [], f"{MARK}\0")
LABEL = ("", "AB 12", "+4915112345678", "a" * 33, "é1", "A\0", "A\ud800", "A\n", 7, True, None, ["A"])
REASON = (*TEXT, "x", "ab", " x ", "...", "\u3164\u115f\u1160", None)
ITEMS = (
    None,
    [],
    "MADRS_01",
    {"MADRS_01": "4"},
    {"MADRS_01": True},
    {"MADRS_01": 4.5},
    {"MADRS_01": 7},
    {"MADRS_01": -1},
)
KEYS = ({MARK: 1}, {f"{MARK}\0": 1}, {"\ud800": 1}, {"": 1}, {"MADRS_01": 2**63}, {f"M{n}": 1 for n in range(300)})

AMOUNT: tuple[Any, ...] = (True, "80", "", 0, -1, 10_001, 10**39, [80], {}, MARK)
VALUE = (True, "120", "", 2**63, 10**39, [120], {}, MARK)
DOSING_FIELDS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("start_dosing_session", "/visit", UUID_LIKE),
    ("start_dosing_session", "/started_at", (*INSTANT, None)),
    ("start_dosing_session", "/staff", (None, [], MARK, {}, ["T01"] * 2, [f"T{n}" for n in range(21)])),
    ("start_dosing_session", "/staff/0", (*CODE, "JD", "jd1", "Jane Doe", "T 1", None)),
    (
        "start_dosing_session",
        "/confirmations",
        (None, [], MARK, {MARK: "yes"}, {"DOSE-TAPER": MARK}, {"DOSE-TAPER": True}),
    ),
    ("start_dosing_session", "/medications/0/atc", (*CODE, "n05ba06", "N5BA06", "N05BA066", None)),
    ("start_dosing_session", "/medications/0/amount_mg", AMOUNT),
    ("start_dosing_session", "/vitals/values/SYSBP", (*VALUE, None)),
    ("record_dose", "/kind", CHOICE),
    ("record_dose", "/planned_mg", (*AMOUNT, None)),
    ("record_dose", "/given_at", INSTANT),
    ("record_dose", "/deviation_reason", REASON[:-1]),
    ("record_vitals", "/timepoint", (*CODE, "M61")),
    ("record_vitals", "/taken_at", (*INSTANT, None)),
    ("record_vitals", "/values", (None, [], MARK, {}, {f"{MARK}\0": 1}, {MARK: 1}, {f"M{n}": 1 for n in range(51)})),
    ("record_vitals", "/values/PULSE", (*VALUE, None, 19, 251)),
    ("close_dosing_session", "/ended_at", (*INSTANT, None)),
    ("close_dosing_session", "/discharge", (None, MARK, {}, [MARK], ["D"] * 51)),
    ("review_safety_signal", "/decision", CHOICE),
    ("review_safety_signal", "/assessment", REASON),
    ("amend_dosing_session", "/reason", REASON),
    ("amend_dose", "/reason", REASON),
    ("amend_vitals", "/reason", REASON),
    ("amend_vitals", "/values/PULSE", VALUE),
    ("record_visit", "/outcomes/0/rater", (*CODE, "JD", "Jane Doe")),
    ("record_visit", "/therapy", ([], MARK, {}, True)),
)
"""Route, field, and values that the field cannot have."""
