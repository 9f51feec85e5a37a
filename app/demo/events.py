"""The demo's synthetic adverse events. Their terms are our own words and not from a dictionary.

One is serious: a night in hospital because of a fast heartbeat. A severe migraine at home is not.
"""

import csv
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from importlib.resources import files
from typing import Any

EVENTS = files("app.demo") / "data" / "synthetic_adverse_events.csv"
"""Each row is an event: the numbers of the participants who had it, and its days counted from an anchor visit. An event
that does not end has no `lasting_days`, and only the month of its onset is known."""


def events_of(number: int, held_on: Mapping[str, date]) -> Iterator[tuple[date, dict[str, Any]]]:
    """The events of participant `number`: the day of each, and the body to post."""
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
