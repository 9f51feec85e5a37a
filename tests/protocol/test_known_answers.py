"""Known answers of the scales beyond the trial's own (those: test_scoring.py).

Vectors are worked by hand: the arithmetic stands beside them. Cuts are those of the sources that the files cite.
"""

import pytest

from app.protocol.instruments import instrument
from tests.protocol.sheets import Sheet, filled, highest, lowest, scored, values

QIDS_DOMAINS = [f"QIDS_{n:02d}" for n in (1, 5, 6, 10, 11, 12, 13, 14, 15)]


@pytest.mark.parametrize(
    ("code", "name", "least", "most"),
    [
        ("HAMA", "total", 0, 56),  # 14 items to 4
        ("HAMD17", "total", 0, 52),  # 9 items to 4 and 8 to 2: 36 + 16
        ("QIDS_SR16", "total", 0, 27),  # 9 domains to 3
        ("ACE", "total", 0, 10),
        ("DES_II", "mean", 0, 100),
        ("ITQ", "ptsd_severity", 0, 24),  # 6 items to 4
        ("ITQ", "dso_severity", 0, 24),
        ("CGI_S", "severity", 1, 7),
        ("CGI_I", "improvement", 1, 7),
        ("EQ5D5L", "mobility", 1, 5),
        ("EQ5D5L", "health_today", 0, 100),
        ("MEQ30", "mystical", 0, 100),
        ("MEQ30", "total", 0, 100),
        ("SEVAS_DOSE", "euphoria", 0, 100),
        ("SEVAS_SUPP", "distress", 0, 100),
        ("SEVAS_END", "compassion_for_others", 0, 100),
        ("CSSRS_SLV", "intensity", 2, 25),  # 1 + 1 + 0 + 0 + 0 to 5 x 5
        ("CSSRS_LIFE", "actual_lethality", 0, 5),
        ("CSSRS_LIFE", "potential_lethality", 0, 2),
    ],
)
def test_the_lowest_and_the_highest_sheet_are_the_ends_of_the_range(
    code: str, name: str, least: int, most: int
) -> None:
    scale = instrument(code)
    assert (values(code, lowest(scale))[name], values(code, highest(scale))[name]) == (least, most)
    assert scale.bounds(name) == (least, most)


@pytest.mark.parametrize(
    ("code", "items", "cuts"),
    [
        ("HAMA", None, {0: "mild", 18: "mild to moderate", 25: "moderate to severe", 31: "very severe"}),
        ("HAMD17", None, {0: "none", 8: "mild", 14: "moderate", 19: "severe", 23: "very severe"}),
        ("QIDS_SR16", QIDS_DOMAINS, {0: "none", 6: "mild", 11: "moderate", 16: "severe", 21: "very severe"}),
        ("ACE", None, {0: "below 4", 4: "4 or more"}),
        ("PSQI", ["PSQI_QUALITY", "PSQI_MEDICINE"], {3: "good", 6: "poor"}),
    ],
)
def test_a_band_begins_exactly_at_its_cut(code: str, items: list[str] | None, cuts: dict[int, str]) -> None:
    start = min(cuts)
    for (cut, label), before in zip(cuts.items(), ["", *cuts.values()], strict=False):
        points = cut - start if code != "PSQI" else cut
        found = scored(code, rested(filled(code, points, items)))["total"]
        assert (found.value, found.band) == (cut, label)
        if before:
            below = scored(code, rested(filled(code, points - 1, items)))["total"]
            assert (below.value, below.band) == (cut - 1, before)


def rested(sheet: Sheet) -> Sheet:
    """A PSQI sheet with eight hours in bed, all asleep; any other as it is."""
    return sheet | ({"PSQI_IN_BED": 480, "PSQI_ASLEEP": 480} if "PSQI_IN_BED" in sheet else {})


def test_qids_takes_the_worst_item_of_sleep_weight_and_movement() -> None:
    # 3 (of 0, 1, 2, 3) + 1 + 2 (of 0, 0, 2, 0) + 5 x 1 + 2 (of 1, 2) = 13
    given = [0, 1, 2, 3, 1, 0, 0, 2, 0, 1, 1, 1, 1, 1, 1, 2]
    found = scored("QIDS_SR16", {f"QIDS_{n:02d}": answer for n, answer in enumerate(given, 1)})
    assert (found["total"].value, found["total"].band, found["total"].reason) == (13, "moderate", None)
    assert [found[name].value for name in ("sleep", "appetite_weight", "psychomotor")] == [3, 2, 2]


@pytest.mark.parametrize("group", [(1, 2, 3, 4), (6, 7, 8, 9), (15, 16)])
def test_each_item_of_a_qids_group_can_be_the_one_that_counts_and_none_counts_twice(group: tuple[int, ...]) -> None:
    for item in group:
        assert values("QIDS_SR16", lowest(instrument("QIDS_SR16")) | {f"QIDS_{item:02d}": 2})["total"] == 2
    together: Sheet = {f"QIDS_{item:02d}": 2 for item in group}
    assert values("QIDS_SR16", lowest(instrument("QIDS_SR16")) | together)["total"] == 2


@pytest.mark.parametrize(
    "empty", [("QIDS_06", "QIDS_08"), ("QIDS_06", "QIDS_09"), ("QIDS_07", "QIDS_08"), ("QIDS_07",)]
)
def test_qids_asks_for_less_or_more_appetite_and_less_or_more_weight(empty: tuple[str, ...]) -> None:
    found = scored("QIDS_SR16", filled("QIDS_SR16", 0) | dict.fromkeys(empty))
    assert {(one.value, one.reason) for one in found.values()} == {(0, None)}


def test_qids_without_any_answer_on_weight_has_no_total() -> None:
    found = scored("QIDS_SR16", filled("QIDS_SR16", 0) | {"QIDS_08": None, "QIDS_09": None})
    assert (found["weight"].value, found["weight"].reason) == (None, "missing items: 2")
    assert (found["appetite_weight"].value, found["appetite_weight"].reason) == (None, "missing scores: 1")
    assert (found["total"].value, found["total"].reason) == (None, "missing scores: 1")


def psqi(**answers: int | None) -> dict[str, float | None]:
    """A good sleeper's sheet, with these answers changed."""
    good = lowest(instrument("PSQI")) | {"PSQI_IN_BED": 480, "PSQI_ASLEEP": 450}
    return values("PSQI", good | {f"PSQI_{name}": answer for name, answer in answers.items()})


def test_psqi_components_and_total_of_a_worked_sheet() -> None:
    # In bed 23:00 to 07:00 = 480 min; asleep 6.5 h = 390 min, 81.25 %; 20 min until asleep is 1, and 1 of 5a: 2, so 1;
    # 5b to 5j: 1 + 2 + 1 + 1 = 5, so 1; 1 + 1 by day = 2, so 1. Total 1 + 1 + 1 + 1 + 1 + 0 + 1 = 6.
    found = psqi(
        ASLEEP=390, LATENCY=20, **{"5A": 1, "5B": 1, "5C": 2, "5F": 1, "5I": 1}, QUALITY=1, AWAKE=1, ENTHUSIASM=1
    )
    assert found == {
        "quality": 1,
        "latency_minutes": 1,
        "latency": 1,
        "duration": 1,
        "efficiency": 1,
        "disturbances": 1,
        "medicine": 0,
        "daytime": 1,
        "total": 6,
    }


def test_the_worst_psqi_sheet_has_three_on_each_component() -> None:
    worst = highest(instrument("PSQI")) | {"PSQI_ASLEEP": 0}
    found = values("PSQI", worst)
    assert (set(found.values()), found["total"]) == ({3, 21}, 21)


@pytest.mark.parametrize(
    ("minutes", "points"), [(0, 0), (15, 0), (16, 1), (30, 1), (31, 2), (60, 2), (61, 3), (300, 3)]
)
def test_psqi_minutes_until_asleep(minutes: int, points: int) -> None:
    assert psqi(LATENCY=minutes)["latency_minutes"] == points


@pytest.mark.parametrize(
    ("minutes", "often", "points"), [(0, 0, 0), (0, 1, 1), (16, 1, 1), (31, 1, 2), (61, 1, 2), (61, 2, 3), (61, 3, 3)]
)
def test_psqi_latency_adds_minutes_and_how_often(minutes: int, often: int, points: int) -> None:
    # Sums 0, 1, 2, 3, 4, 5, 6 are 0, 1, 1, 2, 2, 3, 3.
    assert psqi(LATENCY=minutes, **{"5A": often})["latency"] == points


@pytest.mark.parametrize(
    ("minutes", "points"), [(0, 3), (299, 3), (300, 2), (359, 2), (360, 1), (419, 1), (420, 0), (700, 0)]
)
def test_psqi_hours_asleep(minutes: int, points: int) -> None:
    assert psqi(ASLEEP=minutes, IN_BED=720)["duration"] == points


@pytest.mark.parametrize(
    ("asleep", "in_bed", "points"),
    [
        (259, 400, 3),  # 64.75 %
        (260, 400, 2),  # 65 %
        (299, 400, 2),  # 74.75 %
        (300, 400, 1),  # 75 %
        (339, 400, 1),  # 84.75 %
        (340, 400, 0),  # 85 %
        (459, 541, 1),  # 84.84 %, not rounded up
        (480, 480, 0),
        (0, 1, 3),
    ],
)
def test_psqi_efficiency_is_asleep_as_per_cent_of_in_bed(asleep: int, in_bed: int, points: int) -> None:
    assert psqi(ASLEEP=asleep, IN_BED=in_bed)["efficiency"] == points


def test_psqi_has_no_efficiency_and_no_total_if_sleep_is_longer_than_time_in_bed() -> None:
    found = scored("PSQI", lowest(instrument("PSQI")) | {"PSQI_ASLEEP": 481, "PSQI_IN_BED": 480})
    assert (found["efficiency"].value, found["efficiency"].reason) == (None, "above 100 per cent of PSQI_IN_BED")
    assert (found["total"].value, found["total"].reason) == (None, "missing scores: 1")
    assert found["duration"].value == 0


@pytest.mark.parametrize(("total", "points"), [(0, 0), (1, 1), (9, 1), (10, 2), (18, 2), (19, 3), (27, 3)])
def test_psqi_disturbances(total: int, points: int) -> None:
    sheet = filled("PSQI", total, [f"PSQI_5{letter}" for letter in "BCDEFGHIJ"])
    assert values("PSQI", rested(sheet))["disturbances"] == points


@pytest.mark.parametrize(
    ("awake", "enthusiasm", "points"), [(0, 0, 0), (0, 1, 1), (1, 1, 1), (3, 0, 2), (2, 2, 2), (3, 2, 3), (3, 3, 3)]
)
def test_psqi_daytime(awake: int, enthusiasm: int, points: int) -> None:
    assert psqi(AWAKE=awake, ENTHUSIASM=enthusiasm)["daytime"] == points


@pytest.mark.parametrize(
    ("empty", "blank"),
    [
        ("IN_BED", {"efficiency", "total"}),
        ("ASLEEP", {"duration", "efficiency", "total"}),
        ("LATENCY", {"latency_minutes", "latency", "total"}),
        ("5J", {"disturbances", "total"}),
    ],
)
def test_a_missing_psqi_answer_blanks_its_components_and_the_total(empty: str, blank: set[str]) -> None:
    assert {name for name, value in psqi(**{empty: None}).items() if value is None} == blank


CTQ = {
    "emotional_abuse": ([3, 8, 14, 18, 25], {5: "none", 9: "low", 13: "moderate", 16: "severe"}),
    "physical_abuse": ([9, 11, 12, 15, 17], {5: "none", 8: "low", 10: "moderate", 13: "severe"}),
    "sexual_abuse": ([20, 21, 23, 24, 27], {5: "none", 6: "low", 8: "moderate", 13: "severe"}),
    "emotional_neglect": ([5, 7, 13, 19, 28], {5: "none", 10: "low", 15: "moderate", 18: "severe"}),
    "physical_neglect": ([1, 2, 4, 6, 26], {5: "none", 8: "low", 10: "moderate", 13: "severe"}),
}
CTQ_POSITIVE = {2, 5, 7, 13, 19, 26, 28}


def ctq(subscale: str, total: int) -> Sheet:
    """No trauma at all, but for one subscale that adds up to `total`; positive items are ticked from the other end."""
    sheet: Sheet = {f"CTQ_{n:02d}": 5 if n in CTQ_POSITIVE else 1 for n in range(1, 29)}
    left = total - 5
    for n in CTQ[subscale][0]:
        points = min(left, 4)
        sheet[f"CTQ_{n:02d}"] = 5 - points if n in CTQ_POSITIVE else 1 + points
        left -= points
    return sheet


@pytest.mark.parametrize("subscale", CTQ)
def test_ctq_subscales_have_their_items_cuts_and_ends(subscale: str) -> None:
    labels = ""
    for total in range(5, 26):
        labels = CTQ[subscale][1].get(total, labels)
        found = scored("CTQ_SF", ctq(subscale, total))
        assert (found[subscale].value, found[subscale].band) == (total, labels)
        assert {found[other].value for other in CTQ if other != subscale} == {5}
        assert found["total"].value == total + 20


def test_ctq_reverses_the_positive_items() -> None:
    # All 1: 18 x 1 + 7 x 5 = 53; all 5: 18 x 5 + 7 x 1 = 97; physical neglect 3 + 10 = 13 and 15 + 2 = 17.
    scale = instrument("CTQ_SF")
    low, high = values("CTQ_SF", lowest(scale)), values("CTQ_SF", highest(scale))
    assert (low["total"], low["emotional_neglect"], low["physical_neglect"]) == (53, 25, 13)
    assert (high["total"], high["emotional_neglect"], high["physical_neglect"]) == (97, 5, 17)


@pytest.mark.parametrize(("answers", "points"), [([1, 1, 1], 0), ([4, 4, 4], 0), ([5, 4, 1], 1), ([5, 5, 5], 3)])
def test_ctq_minimisation_counts_perfect_answers_and_is_in_no_total(answers: list[int], points: int) -> None:
    sheet = ctq("sexual_abuse", 5) | dict(zip(["CTQ_10", "CTQ_16", "CTQ_22"], answers, strict=True))
    found = values("CTQ_SF", sheet)
    assert (found["minimisation"], found["total"]) == (points, 25)


def test_a_missing_ctq_item_blanks_its_subscale_and_the_total_only() -> None:
    found = values("CTQ_SF", ctq("sexual_abuse", 5) | {"CTQ_02": None})
    assert {name for name, value in found.items() if value is None} == {"physical_neglect", "total"}


@pytest.mark.parametrize(
    ("answers", "mean", "band"),
    [
        ([30] * 28, 30, "30 or more"),
        ([29] + [30] * 27, 839 / 28, "below 30"),  # 29.96: not reached
        ([100] * 14 + [0] * 14, 50, "30 or more"),
        ([10] + [0] * 27, 10 / 28, "below 30"),
    ],
)
def test_des_is_a_mean(answers: list[int], mean: float, band: str) -> None:
    found = scored("DES_II", {f"DES_{n:02d}": answer for n, answer in enumerate(answers, 1)})["mean"]
    assert (found.value, found.band) == (mean, band)


PTSD = ["ITQ_P1", "ITQ_P3", "ITQ_P6", "ITQ_P8"]
DSO = ["ITQ_C2", "ITQ_C3", "ITQ_C5", "ITQ_C9"]


@pytest.mark.parametrize(
    ("symptoms", "diagnosis"),
    [
        ([], "none"),
        (PTSD, "PTSD"),
        ([*PTSD, *DSO], "complex PTSD"),
        (DSO, "none"),
        *[([one for one in PTSD if one != left], "none") for left in PTSD],
        *[([*PTSD, *(one for one in DSO if one != left)], "PTSD") for left in DSO],
    ],
)
def test_itq_needs_a_symptom_of_each_cluster_and_an_impairment(symptoms: list[str], diagnosis: str) -> None:
    below = {item.code: 1 for item in instrument("ITQ").items}
    found = scored("ITQ", below | dict.fromkeys(symptoms, 2))
    assert found["probable_diagnosis"].band == diagnosis
    # Six symptoms at 1 each, one more point for each of the three that counts; impairment is in no severity.
    assert found["ptsd_severity"].value == 6 + sum(one in symptoms for one in PTSD[:3])
    assert found["dso_severity"].value == 6 + sum(one in symptoms for one in DSO[:3])


@pytest.mark.parametrize(
    ("cluster", "items"),
    [
        ("reexperiencing", ["P1", "P2"]),
        ("avoidance", ["P3", "P4"]),
        ("threat", ["P5", "P6"]),
        ("ptsd_impairment", ["P7", "P8", "P9"]),
        ("affect", ["C1", "C2"]),
        ("self_concept", ["C3", "C4"]),
        ("relationships", ["C5", "C6"]),
        ("dso_impairment", ["C7", "C8", "C9"]),
    ],
)
def test_each_itq_item_belongs_to_its_cluster(cluster: str, items: list[str]) -> None:
    blank = lowest(instrument("ITQ"))
    for item in items:
        assert values("ITQ", blank | {f"ITQ_{item}": 2})[cluster] == 1
    assert values("ITQ", blank | {f"ITQ_{item}": 4 for item in items})[cluster] == len(items)


def test_a_missing_itq_item_leaves_no_diagnosis() -> None:
    found = scored("ITQ", highest(instrument("ITQ")) | {"ITQ_C7": None})
    assert found["ptsd_criteria"].value == 1
    assert (found["probable_diagnosis"].value, found["probable_diagnosis"].reason) == (None, "missing scores: 1")


@pytest.mark.parametrize(
    ("answer", "band"), [(1, "responder"), (2, "responder"), (3, "no responder"), (7, "no responder")]
)
def test_cgi_improvement_counts_as_response_up_to_two(answer: int, band: str) -> None:
    found = scored("CGI_I", {"CGI_I_01": answer})["improvement"]
    assert (found.value, found.band) == (answer, band)


def test_the_eq5d_profile_is_its_answers_and_never_a_total() -> None:
    sheet: Sheet = {f"EQ5D5L_{n:02d}": answer for n, answer in enumerate([2, 1, 2, 3, 1], 1)}
    found = values("EQ5D5L", sheet | {"EQ5D5L_VAS": 70})
    assert "".join(str(value) for value in list(found.values())[:5]) == "21231"
    assert (found["health_today"], "total" in found) == (70, False)
    assert instrument("EQ5D5L").direction_of("pain_discomfort") == "higher_is_worse"
    assert instrument("EQ5D5L").direction_of("health_today") == "higher_is_better"


SCS_REVERSED = {1, 4, 8, 9, 11, 12}


@pytest.mark.parametrize(
    ("kind", "unkind", "mean"),
    [
        (5, 1, 5),  # (6 x 5 + 6 x (6 - 1)) / 12
        (1, 5, 1),  # (6 x 1 + 6 x (6 - 5)) / 12
        (5, 5, 3),  # (30 + 6) / 12
        (4, 3, 3.5),  # (24 + 18) / 12
    ],
)
def test_self_compassion_is_a_mean_with_the_unkind_items_reversed(kind: int, unkind: int, mean: float) -> None:
    sheet: Sheet = {f"SCS_{n:02d}": unkind if n in SCS_REVERSED else kind for n in range(1, 13)}
    assert values("SCS_SF", sheet) == {"mean": mean}


def test_a_mystical_experience_is_complete_at_sixty_per_cent_of_each_factor() -> None:
    # 3 of 5 everywhere is 60 %; one answer less takes its factor below.
    sheet: Sheet = {f"MEQ_{n:02d}": 3 for n in range(1, 31)}
    assert values("MEQ30", sheet) == dict.fromkeys(
        ["mystical", "positive_mood", "transcendence", "ineffability", "total"], 60
    ) | {"complete_experience": 1}
    for item in sheet:
        assert values("MEQ30", sheet | {item: 2})["complete_experience"] == 0


@pytest.mark.parametrize(
    ("factor", "count"), [("mystical", 15), ("positive_mood", 6), ("transcendence", 6), ("ineffability", 3)]
)
def test_meq_factors_are_per_cents_of_their_own_items(factor: str, count: int) -> None:
    items = instrument("MEQ30").rule(factor).items
    assert len(items) == count
    found = values("MEQ30", lowest(instrument("MEQ30")) | dict.fromkeys(items, 5))
    assert found[factor] == 100
    assert found["total"] == pytest.approx(100 * count / 30)


@pytest.mark.parametrize("code", ["SEVAS_DOSE", "SEVAS_SUPP", "SEVAS_END"])
def test_acute_effects_are_reported_item_by_item(code: str) -> None:
    sheet: Sheet = {f"{code}_{n:02d}": n for n in range(1, 16)} | {f"{code}_07": None}
    found = scored(code, sheet)
    assert [one.value for one in found.values()] == [None if n == 7 else n for n in range(1, 16)]
    assert found["euphoria"].reason == "missing items: 1"


@pytest.mark.parametrize("code", ["CSSRS_SLV", "CSSRS_LIFE"])
def test_intensity_of_ideation_is_empty_where_it_was_not_asked(code: str) -> None:
    asked: Sheet = {f"{code}_{n:02d}": 0 for n in range(1, 11)}
    found = values(code, asked)
    assert (found["ideation_level"], found["any_behaviour"], found["intensity"]) == (0, 0, None)
    # frequency 2 + duration 3 + controllability 0 + deterrents 1 + reasons 4 = 10
    rated = zip(range(11, 16), [2, 3, 0, 1, 4], strict=True)
    assert values(code, asked | {f"{code}_01": 1} | {f"{code}_{n}": answer for n, answer in rated})["intensity"] == 10
