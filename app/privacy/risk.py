"""The risk report of an extract: what was hidden, how, and which risk remains. It is released with the extract, so it
shows no small number itself: counts of 1 to 10 are shown as `1-10`, and a number of people left out of 0 to 10 as
`0-10`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.privacy.lattice import MAX_SUPPRESSED, Generalised, K, QuasiIdentifier, Value

SMALL = 10
"""The largest count that is not shown: cells of 1 to 10 are suppressed in CMS's and OpenSAFELY's output rules."""

THRESHOLD = 0.09
"""The risk below which EMA Policy 0070 and Health Canada's PRCI regard a release as low risk."""

NOT_GIVEN = "not given by anybody"

THREE_TESTS: Mapping[str, str] = {
    "singling_out": f"By age, sex, race, country and status nobody is in a class of fewer than {K}.",
    "linkability": "Subject ids are of this extract only. The scores of a person are a fingerprint: somebody who has "
    "two extracts, or knows a person's scores, can join on them. The ledger limits what one organisation learns from "
    "the difference of two extracts; the agreement forbids the rest.",
    "inference": "No class discloses that everybody in it had a serious adverse event: levels are coarser where one "
    "would. If all or none of the extract had one, it is not shown which events were serious. No term of events is "
    "shown that more than nine in ten of a class had, and none of suicidality.",
}
"""What the report says of each of the three tests of anonymisation (Article 29 Working Party, opinion 05/2014)."""

NOT_COVERED = (
    "somebody who knows scores or events of a person; some scores are answers to one question",
    "the pattern of visits and events of a person",
    "visits that only one version of the protocol has",
    f"classes among the {K} people or more in whom two extracts differ",
    "three or more extracts compared with each other",
    "what two extracts of different days reveal about when something was recorded",
    "recipients who pool what they have",
)
"""The risks that the report does not measure."""


def banded(count: int) -> int | str:
    return "1-10" if 0 < count <= SMALL else count


def class_risk(classes: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    """Sizes and risks of classes of people who look alike. The risk is that of being found by somebody who knows that
    the person is in the extract (prosecutor risk): the highest of any person, and the average."""
    sizes = Counter(classes)
    people = sum(sizes.values())
    smallest = min(sizes.values())
    histogram = Counter(
        "12-19" if size < 20 else "20-49" if size < 50 else "50+" for size in sizes.values() if size >= K
    )
    return {
        "k_min": smallest if smallest > SMALL else "1-10",
        "classes": len(sizes),
        "max_risk": round(1 / smallest, 4) if smallest > SMALL else "above 0.09",
        "avg_risk": round(len(sizes) / people, 4),
        "class_sizes": dict(sorted(histogram.items())),
    }


def uniqueness(traits: Iterable[Any]) -> dict[str, Any]:
    """How many people have any trait, and the share of them whose trait nobody else has. `traits`: one of each
    person."""
    sizes = Counter(traits)
    people, single = sizes.total(), sum(size == 1 for size in sizes.values())
    few = 0 < single <= SMALL or 0 < people <= SMALL
    return {"people": banded(people), "unique": "1-10 people" if few else round(single / people, 2) if people else 0}


def risk_report(
    people: Sequence[tuple[Value, ...]],
    quasis: Sequence[QuasiIdentifier],
    chosen: Generalised,
    serious_shown: bool,
    ledger: Mapping[str, Any],
    fingerprints: Mapping[str, Any],
) -> dict[str, Any]:
    """The report as data; `people` are the exact values of everybody who was considered."""
    released = [one for one, kept in zip(chosen.classes, chosen.kept, strict=True) if kept]
    left_out = len(people) - len(released)
    left_out_shown = left_out > SMALL  # at most five in a hundred are left out: of 26 people `1-10` would mean one
    return {
        "schema": "research-registry/risk-report/4",
        "decision": "pass",
        "threshold": {"k": K, "max_risk": THRESHOLD, "max_suppressed": MAX_SUPPRESSED},
        "population": {
            "considered": len(people) if left_out_shown else "",  # minus those released, it is the number left out
            "released": len(released),
            "suppressed": left_out if left_out_shown else f"0-{SMALL}",
        },
        "quasi_identifiers": [
            {"name": one.name, "label": one.label, "released": _released(one, number, people, chosen)}
            for number, one in enumerate(quasis)
        ],
        "exact": _exact_classes(people, left_out_shown=left_out_shown),
        "released": class_risk(released),
        "sensitive": [{"name": "serious", "released": serious_shown}],
        "ledger": ledger,
        "fingerprints": fingerprints,
        "three_tests": dict(THREE_TESTS),
        "not_covered": list(NOT_COVERED),
        "wording": "De-identified by these rules; not anonymous, and no legal determination.",
    }


def _released(one: QuasiIdentifier, place: int, people: Sequence[tuple[Value, ...]], chosen: Generalised) -> str:
    level = one.levels[chosen.levels[one.name]]
    theirs = (raw[place] for raw, kept in zip(people, chosen.kept, strict=True) if kept)
    return level.name if level is one.levels[-1] or any(value is not None for value in theirs) else NOT_GIVEN


def _exact_classes(people: Sequence[tuple[Value, ...]], *, left_out_shown: bool) -> dict[str, Any]:
    """The classes by exact values. If the number of people left out is not shown, the number of classes is not either,
    and the mean risk has one decimal, so that the number left out cannot be worked out from them."""
    risk, mean = class_risk(people), len(set(people)) / len(people)
    if left_out_shown:
        return {**risk, "avg_risk": round(mean, 2)}
    return {**risk, "classes": "", "avg_risk": round(mean, 1)}


def _share(unique: float | str) -> str:
    return unique if isinstance(unique, str) else f"{unique:.0%}"


def readable(report: Mapping[str, Any]) -> str:
    """The report as a Markdown page, for the custodian who decides."""
    before, after, people = report["exact"], report["released"], report["population"]
    marks, ledger = report["fingerprints"], report["ledger"]
    lines = [
        "# Risk report",
        "",
        f"{people['released']} people are released; {people['suppressed']} are left out.",
        f"The smallest class has {after['k_min']} people (before: {before['k_min']}), so the highest risk is "
        f"{after['max_risk']} (before: {before['max_risk']}); the threshold is {report['threshold']['max_risk']}. The "
        f"mean risk is {after['avg_risk']} (before: {before['avg_risk']}).",
        *(f"`{one['name']}` is {'shown' if one['released'] else 'not shown'}." for one in report["sensitive"]),
        "",
        f"Earlier extracts that it was compared with: {ledger['earlier_extracts']}. It has to differ from each by "
        f"nobody, or by {ledger['needed_difference']} people or more: {ledger['verdict']}.",
        "",
        "| quasi-identifier | released |",
        "|---|---|",
        *(f"| {one['label']} | {one['released']} |" for one in report["quasi_identifiers"]),
        "",
        *(
            f"{label}: {_share(marks[name]['unique'])} of those who have any are alone with theirs."
            for name, label in (("score_vectors", "Courses of scores"), ("visit_patterns", "Patterns of visits"))
        ),
        "",
        *(f"**{name.replace('_', ' ').capitalize()}.** {text}" for name, text in report["three_tests"].items()),
        "",
        "Not covered: " + "; ".join(report["not_covered"]) + ".",
        "",
        report["wording"],
        "",
    ]
    return "\n".join(lines)
