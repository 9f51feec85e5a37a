"""The demo's synthetic answers. Those of MADRS and Sheehan at baseline and primary endpoint are in a CSV file; all
others are computed from a hash of participant, visit and item, so that every demo has the same answers."""

import csv
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files

from app.protocol.instruments import instrument

GIVEN = files("app.demo") / "data" / "synthetic12_madrs_sds.csv"
VISIT_OF_FILE = {"BASELINE": "BL", "PRIMARY": "PRIM"}
MADRS_MAXIMUM = 60
WISH_FROM, THOUGHTS_FROM = 2, 4

Items = dict[str, int | None]
Row = Mapping[str, str]


@cache
def subjects() -> Mapping[str, Mapping[str, Row]]:
    """Subject -> visit code -> the row of the CSV file, in the file's order."""
    found: dict[str, dict[str, Row]] = {}
    for row in csv.DictReader(GIVEN.read_text().splitlines()):
        found.setdefault(row["subject"], {})[VISIT_OF_FILE[row["visit"]]] = row
    return found


def drawn(most: int, *seed: object) -> int:
    """A pseudorandom number from 0 to `most`, always the same for the same seed."""
    digest = sha256("|".join(map(str, seed)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % (most + 1)


def answers(subject: str, visit: str, instrument_code: str) -> Items:
    """The items of one instrument at a visit."""
    row = subjects()[subject].get(visit)
    if row is not None and instrument_code == "MADRS":
        return {f"MADRS_{number:02d}": int(row[f"madrs_{number:02d}"]) for number in range(1, 11)}
    if row is not None and instrument_code == "SHEEHAN_SDS":
        return {f"SDS_{number:02d}": int(row[f"sds_{number}"]) for number in range(1, 4)}
    if instrument_code.startswith("CSSRS"):
        return _suicidality(instrument_code, int(row["madrs_10"]) if row else 0)
    return _made_up(subject, visit, instrument_code)


def _made_up(subject: str, visit: str, instrument_code: str) -> Items:
    """Answers at the same share of their range as the depression score has of its own, plus or minus one."""
    scale, share = instrument(instrument_code), _severity(subject, visit)
    if scale.direction == "higher_is_better":
        share = 1 - share
    scored = {code for rule in scale.scores for code in getattr(rule, "items", ())} or set(scale.by_code)
    items: Items = {}
    for item in scale.items:
        if item.code in scored:
            near = round(item.minimum + share * (item.maximum - item.minimum))
            near += drawn(2, subject, visit, item.code) - 1
            items[item.code] = min(max(near, item.minimum), item.maximum)
    return items


def _severity(subject: str, visit: str) -> float:
    """The MADRS total as a share of its range, 0 to 1. After the primary endpoint a quarter of the change is lost."""
    totals = {code: int(row["madrs_total"]) for code, row in subjects()[subject].items()}
    later = (3 * totals["PRIM"] + totals["BL"]) / 4
    return totals.get(visit, later) / MADRS_MAXIMUM


def _suicidality(instrument_code: str, madrs_item_10: int) -> Items:
    """A wish to be dead, or thoughts without method or intent, as MADRS item 10 says; never behaviour."""
    form = instrument(instrument_code).form_of or instrument_code
    items: Items = {f"{form}_{number:02d}": 0 for number in range(1, 11)}
    items[f"{form}_01"] = int(madrs_item_10 >= WISH_FROM)
    items[f"{form}_02"] = int(madrs_item_10 >= THOUGHTS_FROM)
    if madrs_item_10 < THOUGHTS_FROM:
        items |= {f"{form}_{number:02d}": None for number in (3, 4, 5)}  # not asked
    return items
