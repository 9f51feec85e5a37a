"""What the registry is made of: every locked requirement under a licence that a hospital's lawyers know."""

import os
import re
from importlib.metadata import PackageNotFoundError, metadata

from tests.server import ROOT
from tests.test_docs import table

PAGE = ROOT / "docs" / "licences.md"
LOCKED = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==[^ ]+(?: ; .*)? \\$", re.MULTILINE)
KNOWN = {
    *("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"),
    "LGPL-3.0-only",  # psycopg, used as a library that anybody may exchange
}
SAID_OTHERWISE = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
}
"""The classifiers of those that do not state the licence itself."""


def licence(name: str) -> str | None:
    """As the package states it; None where it is not installed, as it is for another system."""
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return None
    classified = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or () if line.startswith("License")]
    mapped = [SAID_OTHERWISE[one] for one in classified if one in SAID_OTHERWISE]
    stated = [*(told.get_all("License-Expression") or mapped), *(told.get_all("License") or ())]
    return str(stated[0]) if stated else "unknown"


def test_every_licence_is_known_and_listed() -> None:
    lock = (ROOT / "requirements" / "runtime.txt").read_text()
    found = {name: licence(name) for name in LOCKED.findall(lock)}
    assert len(found) > 40
    listed = {name: one for name, one in found.items() if one is not None}
    unknown = {name: one for name, one in listed.items() if not set(re.split(r" (?:OR|AND) ", one)) <= KNOWN}
    assert unknown == {}
    fresh = table(["package", "licence"], [[name, one] for name, one in sorted(listed.items())])
    before, opening, rest = PAGE.read_text().partition("<!-- generated: licences -->\n")
    text = f"{before}{opening}{fresh}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    if os.environ.get("REGISTRY_UPDATE_DOCS"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text
