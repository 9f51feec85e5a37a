"""All fields of answers and extracts are on a reviewed list: a new one is a changed line in the committed file."""

import json
import os
from pathlib import Path

from app.models.base import Answer
from app.privacy.profile import PROFILES

COMMITTED = Path(__file__).parent / "data" / "outgoing_fields.json"


def shapes(root: type[Answer] = Answer) -> dict[str, list[str]]:
    import app.main  # noqa: F401 - loads every shape

    found = {}
    for shape in root.__subclasses__():
        found[shape.__name__] = sorted(shape.model_fields)
        found |= shapes(shape)
    return found


def test_outgoing_fields_equal_the_committed_list() -> None:
    outgoing = {
        "answers": shapes(),
        "extracts": {
            f"{name}/{file}": [column.name for column in columns]
            for name, profile in PROFILES.items()
            for file, columns in profile.files.items()
        },
    }
    if os.environ.get("REGISTRY_UPDATE_DOCS"):
        COMMITTED.write_text(json.dumps(outgoing, indent=1, sort_keys=True) + "\n")
    assert len(outgoing["answers"]) > 25
    assert json.loads(COMMITTED.read_text()) == outgoing
