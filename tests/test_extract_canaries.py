"""Marks in every text of the clinical record, searched for in every file of every profile and form."""

import json
from typing import Any

from pyarrow import BufferReader, parquet

from tests.canaries import Canaries, overheard, pointers
from tests.hostile_requests import Target, Targets
from tests.world import Registry, World, label

TYPED = (
    *("enrol", "change_status", "record_visit", "record_outcome", "report_adverse_event", "give_consent"),
    *("screen_again", "answer_criteria", "add_treatment", "report_serious_event", "review_event"),
    *("start_dosing_session", "record_dose", "record_vitals", "close_dosing_session", "review_safety_signal"),
    *("raise_data_query", "answer_data_query", "set_lock", "record_verification", "withdraw_consent", "add_site"),
    *("amend_participant", "amend_visit", "amend_outcome", "amend_adverse_event"),
    *("amend_dosing_session", "amend_dose", "amend_vitals"),
)
PROFILES: dict[str, dict[str, str]] = {"deidentified": {}, "pseudonymised": {"agreement": "DUA-1"}, "aggregate": {}}


def say(canaries: Canaries, name: str, target: Target) -> int:
    """Every value of a valid body marked, and every reason; how often it was welcome."""
    welcome = 0
    for number, pointer in enumerate(["/reason", *pointers(target.body)]):
        mark = canaries.mark(pointer, name)
        body: Any = target.with_value(pointer, mark)
        if name == "enrol" and pointer != "/site_local_id":
            body["site_local_id"] = label()
        if name == "record_visit" and pointer != "/occurrence":
            body["occurrence"] = 10 + number
        welcome += target.send_json(body).is_success
    return welcome


def content(world: World, path: str, name: str) -> str:
    whole = world.analyst.get(f"{path}/files/{name}").content
    if name.endswith(".parquet"):
        return json.dumps(parquet.read_table(BufferReader(whole)).to_pylist())
    return str(whole.decode("latin-1"))


def test_no_text_that_anybody_typed_is_in_any_file(registry: Registry) -> None:
    world, canaries, welcome = World(registry), Canaries(), 0
    targets = Targets(world)
    with overheard() as heard:
        for name in TYPED:
            welcome += say(canaries, name, targets[name])
        world.uploaded("participants", [world.enrolment() for _ in range(12)])
        for profile, more in PROFILES.items():
            asked = {"study": world.study, "purpose": "A question", "profile": profile, **more}
            forms = {"formats": ["csv", "ndjson", "parquet"]}
            path = world.analyst.post("/v1/extracts", {**asked, **forms}).headers["Location"]
            answer = world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use"})
            assert answer.status_code == 201, answer.text
            read = world.analyst.get(path)
            canaries.search(f"{profile}, answer", read.text)
            for file in read.json()["files"]:
                if file["name"] != "bundle.zip":  # of just these, as another test shows
                    canaries.search(f"{profile}, {file['name']}", content(world, path, file["name"]))
            canaries.search(f"{profile}, codebook", world.analyst.get("/v1/codebook", profile=profile).text)
    canaries.search("log", heard.getvalue())
    assert canaries.leaks == []
    assert welcome > 15, "else nothing was there to leak"
