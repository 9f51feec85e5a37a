"""Confirmations that the protocol asks for: a refusal names the wrong ones, without what was sent."""

from typing import Any

from tests.dosing_cases import SESSIONS, YES, a_session_to_close, closing, dose, path_of, prepared, start
from tests.world import World


def test_the_refusal_of_unknown_confirmations_names_those_that_exist(world: World) -> None:
    visit = prepared(world.staff_a, world.enrolled())
    answer = world.staff_a.post(SESSIONS, start(visit["id"], confirmations={**YES, "DOSE-LUCKY": "yes"}))
    fault = answer.json()["errors"][0]
    assert (answer.status_code, fault["pointer"], fault["code"]) == (422, "/confirmations", "unknown_confirmation")
    assert "DOSE-TAPER" in fault["message"]
    assert "LUCKY" not in answer.text


def test_wrong_answers_are_named_by_their_places(world: World) -> None:
    visit = prepared(world.staff_a, world.enrolled())
    wrong = {"DOSE-PREGNANCY": True, "DOSE-TAPER": "yes", "DOSE-DRUG-SCREEN": "oui"}
    answer = world.staff_a.post(SESSIONS, start(visit["id"], confirmations=wrong))
    (fault,) = answer.json()["errors"]
    assert (answer.status_code, fault["pointer"], fault["code"]) == (422, "/confirmations", "confirmation_answer")
    assert fault["message"].endswith("counted from 0: 0, 2")
    assert "oui" not in answer.text


def test_an_unknown_item_of_the_checklist_is_named_by_its_place(world: World) -> None:
    close = path_of(a_session_to_close(world), "/close")
    done = closing()["discharge"]
    answer = world.staff_a.post(close, closing(discharge=[*done, "DISCHARGE-HAPPY"]))
    assert [one["pointer"] for one in answer.json()["errors"]] == [f"/discharge/{len(done)}"]


def test_an_incomplete_dose_is_refused_at_the_missing_field(world: World) -> None:
    doses = path_of(a_session_to_close(world), "/doses")
    whole: dict[str, Any] = dose()
    for name in ("given_mg", "given_at"):
        answer = world.staff_a.post(doses, {field: value for field, value in whole.items() if field != name})
        assert "{pointer} {code}".format(**answer.json()["errors"][0]) == f"/{name} given_half"
