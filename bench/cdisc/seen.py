"""The figures as a monitor and an analyst see them through the API, in the words of the source.

The registry's words are translated back by tables that the sender does not use, so that a wrong word in a request
appears as a difference.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.cdisc.independent import Figures, record
from bench.cdisc.setup import People
from registry_client import Registry

Rows = Sequence[Mapping[str, Any]]

SEVERITY = {"mild": "MILD", "moderate": "MODERATE", "severe": "SEVERE"}
RELATEDNESS = {"not_related": "NONE", "unlikely": "REMOTE", "possible": "POSSIBLE", "probable": "PROBABLE"}
OUTCOME = {"fatal": "FATAL", "not_recovered": "NOT RECOVERED/NOT RESOLVED", "recovered": "RECOVERED/RESOLVED"}
CRITERIA = {
    "death": "AESDTH",
    "life_threatening": "AESLIFE",
    "hospitalisation": "AESHOSP",
    "disability": "AESDISAB",
    "congenital_anomaly": "AESCONG",
    "medically_important": "AESMIE",
}
REPORTED = {True: "Y", False: "N", None: None}
ORDER = ("MILD", "MODERATE", "SEVERE")

NOT_RELEASED = frozenset(
    {
        "events by criterion",
        "events by partial onset",
        "events by site",
        "events by system organ class",
        "events: as reported",
        "findings",
        "participants by ethnicity",
        "participants by race",
        "participants by sex",
        "participants by site",
        "participants with events by site",
        "participants with events by system organ class",
        "participants: age",
        "screen failures by site",
        "visits outside their window by name",
    }
)
"""Sections of figures that are not taken from the extract, or that it cannot give."""


@dataclass(frozen=True)
class Listed:
    """Every list that a monitor can read."""

    names: Mapping[str, str]
    """Visit code to visit name, as the registry's copy of the protocol has them."""

    people: Rows
    visits: Rows
    outcomes: Rows
    events: Rows


def listed(monitor: Registry, study: str) -> Listed:
    """Page through every list of the study."""
    return Listed(
        _visit_names(monitor, study),
        *(
            list(monitor.pages(f"/v1/{noun}", study=study, limit=500))
            for noun in ("participants", "visits", "outcomes", "adverse-events")
        ),
    )


def _visit_names(registry: Registry, study: str) -> dict[str, str]:
    protocol = registry.get(f"/v1/studies/{study}/protocols/1").body
    return {visit["code"]: visit["name"] for visit in protocol["definition"]["visits"]}


def by_monitor(seen: Listed) -> Figures:
    """Every figure of `independent.figures`, counted from the lists."""
    people, visits, events = seen.people, seen.visits, seen.events
    partial = [event["onset"] for event in events if len(event["onset"] or "") != len("2014-03-05")]
    failed = [person["site"] for person in people if person["status"] == "screen_failed"]
    outside = [visit for visit in visits if any(one["code"] == "visit_outside_window" for one in visit["findings"])]
    unmet = [event for event in events if event["serious"] and event["serious_as_reported"] is False]
    criteria = [CRITERIA[name] for event in events for name, met in event["criteria"].items() if met]
    found = (one["code"] for rows in (people, visits, events) for row in rows for one in row["findings"])
    return {
        ("participants: age", "years, summed"): sum(person["age_at_consent"] for person in people),
        **_people(people),
        **_count("participants by site", (person["site"] for person in people)),
        **_count("participants by sex", (person["sex"] for person in people)),
        **_count("participants by race", (person["race"] for person in people)),
        **_count("participants by ethnicity", (person["ethnicity"] for person in people)),
        **_count("screen failures by site", failed),
        **_visits(seen.names, visits),
        **_count("visits outside their window by name", (seen.names[visit["visit_code"]] for visit in outside)),
        **_outcomes(_scores(seen)),
        **_events(events, "participant"),
        ("events: as reported", "AESER=Y"): sum(event["serious_as_reported"] is True for event in events),
        ("events: as reported", "AESER=N with a criterion met"): len(unmet),
        ("events: as reported", "AESER=N with AESDTH=Y"): sum(event["criteria"]["death"] for event in unmet),
        ("events: as reported", "AESTDTC not a full date"): len(partial),
        **_count("events by site", (event["site"] for event in events)),
        **_count("events by criterion", criteria),
        **_count("events by system organ class", (event["soc"] for event in events)),
        **_count("events by partial onset", partial),
        **_persons("participants with events by site", events, "participant", "site"),
        **_persons("participants with events by system organ class", events, "participant", "soc"),
        **_count("findings", found),
    }


def records(seen: Listed) -> Counter[str]:
    """Each participant's whole record, written as `independent.records` writes it."""
    parts: dict[str, tuple[list[Any], list[Any], list[Any]]] = defaultdict(lambda: ([], [], []))
    days = {visit["id"]: visit["occurred_on"] for visit in seen.visits}
    for visit in seen.visits:
        parts[visit["participant"]][0].append([seen.names[visit["visit_code"]], visit["occurred_on"]])
    for outcome in seen.outcomes:
        (score,) = outcome["scores"]
        name = seen.names[outcome["visit_code"]]
        value = None if score["value"] is None else round(float(score["value"]), 6)
        parts[outcome["participant"]][1].append([name, days[outcome["visit"]], outcome["instrument"], value])
    for event in seen.events:
        parts[event["participant"]][2].append(_event(event))
    facts = ["site", "age_at_consent", "sex", "race", "ethnicity", "screened_on", "enrolled_on"]
    return Counter(record([_fact(person, name) for name in facts], *parts[person["pid"]]) for person in seen.people)


def _fact(person: Mapping[str, Any], name: str) -> Any:
    return float(person[name]) if name == "age_at_consent" else person[name]


def _event(event: Mapping[str, Any]) -> list[Any]:
    return [
        *(event[name] for name in ("term", "pt", "soc", "onset", "end")),
        SEVERITY[event["severity"]],
        REPORTED[event["serious_as_reported"]],
        event["serious"],
        RELATEDNESS.get(event["relatedness_drug"]),
        OUTCOME[event["outcome"]],
    ]


def extract_files(people: People, study: str, keep: Path | None = None) -> dict[str, Rows]:
    """Ask for a pseudonymised extract, have the custodian approve it, and download its tables, checksums compared."""
    asked = {
        "study": study,
        "profile": "pseudonymised",
        "agreement": "none: public data",
        "purpose": "Check of the replay",
    }
    extract_id = people.analyst.post("/v1/extracts", asked).body["id"]
    decision = {"decision": "approve", "reason": "Check of the pilot replay"}
    people.custodian.post(f"/v1/extracts/{extract_id}/approval", decision)
    if people.analyst.extract(extract_id)["status"] != "ready":
        raise ValueError("The extract was not built")
    with TemporaryDirectory() as folder:
        files = people.analyst.download(extract_id, keep or Path(folder))
        found: dict[str, Rows] = {}
        for file in files:
            if file.suffix == ".csv":
                with file.open(newline="", encoding="utf-8") as rows:
                    found[file.name] = list(csv.DictReader(rows))
    return found


def by_analyst(files: Mapping[str, Rows], names: Mapping[str, str]) -> Figures:
    """What the extract still carries of the figures, and what only it shows. The names of visits are the codebook's."""
    people, visits = files["participants.csv"], files["visits.csv"]
    events = [{**row, "serious": row["serious"] == "Y"} for row in files["adverse_events.csv"]]
    scores = [(row["instrument"], float(row["value"]) if row["value"] else None) for row in files["outcomes.csv"]]
    days: Counter[str] = Counter()
    for visit in visits:
        days[names[visit["visit_code"]]] += int(visit["study_day"] or 0)
    onsets = [int(event["onset_day"]) for event in events if event["onset_day"]]
    return {
        **_people(people),
        **_visits(names, visits),
        **_outcomes(scores),
        **_events(events, "subject"),
        **{("study days by visit name, summed", name): total for name, total in days.items()},
        ("onset days", "known"): len(onsets),
        ("onset days", "summed"): sum(onsets),
        **_count("events by released system organ class", (event["soc"] for event in events)),
        **_persons("participants with events by released system organ class", events, "subject", "soc"),
    }


def _people(people: Rows) -> Figures:
    return {
        ("participants", "all"): len(people),
        ("screen failures", "all"): sum(person["status"] == "screen_failed" for person in people),
        **_count("participants by status", (person["status"] for person in people)),
        **_count("participants by planned arm", (person["planned_arm"] for person in people if person["planned_arm"])),
        **_count("participants by actual arm", (person["actual_arm"] for person in people if person["actual_arm"])),
    }


def _visits(names: Mapping[str, str], visits: Rows) -> Figures:
    return {
        ("visits", "all"): len(visits),
        **_count("visits by name", (names[visit["visit_code"]] for visit in visits)),
    }


def _scores(seen: Listed) -> list[tuple[str, float | None]]:
    return [(outcome["instrument"], score["value"]) for outcome in seen.outcomes for score in outcome["scores"]]


def _outcomes(scores: Iterable[tuple[str, float | None]]) -> Figures:
    values: dict[str, list[float | None]] = defaultdict(list)
    for instrument, value in scores:
        values[instrument].append(value)
    found: Figures = {}
    for instrument, given in values.items():
        scored = [value for value in given if value is not None]
        section = f"outcomes: {instrument}"
        found |= {(section, "administrations"): len(given), (section, "scored"): len(scored)}
        found[section, "scores, summed"] = round(sum(scored), 3)
    return found


def _events(events: Rows, person: str) -> Figures:
    """What both the lists and the extract tell of adverse events; `person` is the column of the participant."""
    worst: dict[str, str] = {}
    for event in events:
        worst[event[person]] = max(worst.get(event[person], "MILD"), SEVERITY[event["severity"]], key=ORDER.index)
    worded = [{person: event[person], "severity": SEVERITY[event["severity"]]} for event in events]
    serious = [event for event in events if event["serious"]]
    return {
        ("events", "all"): len(events),
        ("events", "serious by criteria"): len(serious),
        **_count("events by severity", (event["severity"] for event in worded)),
        **_count("events by outcome", (OUTCOME[event["outcome"]] for event in events)),
        **_count("events by relatedness", (RELATEDNESS.get(event["relatedness_drug"], "") for event in events)),
        ("participants with events", "any"): len(worst),
        ("participants with events", "serious by criteria"): len({event[person] for event in serious}),
        **_persons("participants with events by severity", worded, person, "severity"),
        **_count("participants by maximum severity", worst.values()),
    }


def _count(section: str, values: Iterable[str]) -> Figures:
    return {(section, value): number for value, number in Counter(values).items()}


def _persons(section: str, rows: Rows, person: str, by: str) -> Figures:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[row[by]].add(row[person])
    return {(section, value): len(persons) for value, persons in found.items()}
