"""What the terms of adverse events tell of everybody in a class: nothing; and nothing of suicidality at all."""

from collections import Counter
from typing import Any

import pytest

from app.models.extract import ExtractProfile
from app.privacy import profile, suicidality
from tests.builds import built_again
from tests.test_deidentified import asked, files, people, report_events, table
from tests.world import World


def term(pt: str, soc: str = "Nervous system disorders") -> dict[str, Any]:
    levels = ({"system": "own", "term": pt, "level": "pt"}, {"system": "own", "term": soc, "level": "soc"})
    return {"codings": list(levels)}


def women_and_men(world: World, women: int, men: int) -> tuple[list[str], list[str]]:
    return people(world, women, sex="F"), people(world, men, sex="M")


def shown(world: World, column: str) -> Counter[str]:
    return Counter(row[column] for row in table(files(world)["adverse_events.csv"]))


def test_suicidality_is_not_released_however_many_had_it(world: World) -> None:
    women, men = women_and_men(world, 13, 26)
    told = {**term("Suicidal ideation", "Psychiatric disorders"), "special_interest": "suicidality"}
    report_events(world, women, **told)
    report_events(world, men[:13], **told)
    report_events(world, men[13:], **term("Hypertension"), special_interest="hypertension")
    report_events(world, men[13:], **term("Suicide attempt"))
    got = files(world)["adverse_events.csv"]
    assert Counter(row["special_interest"] for row in table(got)) == {"": 39, "hypertension": 13}
    assert Counter(row["pt"] for row in table(got)) == {"OTHER": 39, "Hypertension": 13}
    assert "uicid" not in got


def test_a_studys_own_events_of_special_interest_are_not_released(world: World) -> None:
    pids = people(world, 26)
    report_events(world, pids[:13], **term("Drug abuse"), special_interest="abuse_potential")
    report_events(world, pids[13:], **term("Drug abuse"))
    got = table(files(world)["adverse_events.csv"])
    assert Counter((row["pt"], row["special_interest"]) for row in got) == {("Drug abuse", ""): 13, ("OTHER", ""): 13}


@pytest.mark.parametrize(
    ("term", "withheld"),
    [
        ("Suicidal ideation", True),
        ("Self-injurious ideation", True),
        ("Suizidgedanken", True),
        ("Selbstschädigendes Verhalten", True),
        ("Selvmordstanker", True),
        ("Självmordsförsök", True),
        ("Suïcidepoging", True),
        ("Idéation suicidaire", True),
        ("Automutilation", True),
        ("Autolesión intencionada", True),
        ("Sebevražedné myšlenky", True),
        ("Öngyilkossági gondolatok", True),
        ("Суицидальные мысли", True),
        ("Autoimmune hepatitis", False),
        ("Onychomycosis", False),
        ("Aggression", False),
    ],
)
def test_terms_of_suicidality_are_recognised_in_the_languages_of_meddra(term: str, withheld: bool) -> None:
    assert suicidality.is_suicidality(term) is withheld


@pytest.mark.parametrize(("having", "released"), [(18, True), (19, False), (20, False)])
def test_a_term_that_nearly_all_of_a_class_have_is_shown_for_nobody(world: World, having: int, released: bool) -> None:
    """More than nine in ten: of the others' too, as those who lack it would be told by it."""
    women, men = women_and_men(world, 20, 40)
    report_events(world, women[:having] + men[:20], **term("Headache", "Nervous"))
    report_events(world, men[:15], **term("Nausea", "Gastrointestinal"))
    headaches = {"Headache" if released else "OTHER": having + 20}
    assert shown(world, "pt") == {**headaches, "Nausea": 15}
    assert shown(world, "soc") == {"Nervous" if released else "OTHER": having + 20, "Gastrointestinal": 15}


def test_a_special_interest_that_nearly_all_of_a_class_have_is_shown_for_nobody(world: World) -> None:
    women, men = women_and_men(world, 20, 40)
    report_events(world, women + men[:20], **term("Headache"), special_interest="hypertension")
    report_events(world, men[:15], **term("Nausea"), special_interest="bruxism")
    report_events(world, men[15:30], **term("Nausea"), special_interest="seizure")
    assert shown(world, "special_interest") == {"OTHER": 55, "seizure": 15}


@pytest.mark.parametrize(("version", "pt"), [("2", "Suicidal ideation"), ("3", "Suizidgedanken")])
def test_rows_of_an_earlier_version_are_built_again_as_they_were(
    world: World, monkeypatch: pytest.MonkeyPatch, version: str, pt: str
) -> None:
    report_events(world, people(world, 26)[:13], **term(pt))
    earlier = profile.VERSIONS[ExtractProfile.deidentified, version]
    with monkeypatch.context() as patch:
        patch.setitem(profile.PROFILES, ExtractProfile.deidentified, earlier)  # type: ignore[arg-type]
        path = asked(world)
        decision = {"decision": "approve", "reason": "agreed use"}
        assert world.custodian.post(f"{path}/approval", decision).status_code == 201
        assert pt in world.analyst.get(f"{path}/files/adverse_events.csv").text
    assert built_again(world, path) == "the same rows"
    assert pt not in files(world)["adverse_events.csv"]
