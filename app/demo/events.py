"""The synthetic adverse events of the demo. Their terms are plain words of our own, no dictionary's.

One is serious: a night in hospital to watch a fast heartbeat. A severe migraine at home is not.
"""

import csv
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from importlib.resources import files
from typing import Any

EVENTS = files("app.demo") / "data" / "synthetic_adverse_events.csv"
"""Each row: who had the event, by number, and its days counted from an anchor visit. An event that does not end has
no `lasting_days`; of its onset only the month is known."""


def events_of(number: int, held_on: Mapping[str, date]) -> Iterator[tuple[date, dict[str, Any]]]:
    """What participant `number` had: the day of each event and the body to post."""
    for row in csv.DictReader(EVENTS.read_text().splitlines()):
        if str(number) in row["participants"].split():
            onset = held_on[row["anchor"]] + timedelta(days=int(row["after_days"]))
            yield onset, _body(row, onset)


def _body(row: Mapping[str, str], onset: date) -> dict[str, Any]:
    end = onset + timedelta(days=int(row["lasting_days"])) if row["lasting_days"] else None
    serious = row["hospitalisation"] == "yes"
    body = {
        "term": row["term"],
        "codings": [
            {"system": "Demo terms", "version": "1", "term": row["term"], "level": "pt"},
            {"system": "Demo terms", "version": "1", "term": row["group"], "level": "soc"},
        ],
        "onset": onset.isoformat() if end else onset.strftime("%Y-%m"),
        "end": end.isoformat() if end else None,
        "severity": row["severity"],
        "criteria": {"hospitalisation": serious},
        "relatedness_drug": row["drug"],
        "relatedness_therapy": row["therapy"],
        "action_taken": "not_applicable",
        "outcome": "recovered" if end else "not_recovered",
        "expected": row["expected"] == "yes",
        "special_interest": row["special_interest"] or None,
    }
    if serious:
        body |= {"serious_as_reported": True, "aware_at": f"{onset}T20:30:00Z"}
    return body
