"""Codes by which lists and summaries are asked for. One that nobody defined, as when it is mistyped, is refused: an
empty answer would read as if nothing was recorded."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sqlmodel import Session, col, select

from app.access import Actor, visible
from app.errors import Fault, ValidationFailed
from app.models.study import ProtocolVersion, Study
from app.protocol.definition import Protocol
from app.protocol.instruments import UnknownInstrument, instrument
from app.services.studies import protocol_of


class _Kind(NamedTuple):
    """A kind of code that protocols define."""

    fault: str
    message: str
    defined: Callable[[Protocol], Iterable[str]]


_KINDS: Mapping[str, _Kind] = {
    "aesi": _Kind(
        "unknown_special_interest",
        "On no protocol's list of special interests",
        lambda protocol: (interest.code for interest in protocol.special_interest),
    ),
    "arm": _Kind("unknown_arm", "No protocol version has such an arm", lambda one: (arm.code for arm in one.arms)),
    "rule": _Kind(
        "unknown_rule",
        "No protocol version has such a safety rule",
        lambda protocol: (rule.code for rule in protocol.safety_rules),
    ),
    "visit_code": _Kind(
        "unknown_visit", "No protocol version has such a visit", lambda one: (visit.code for visit in one.visits)
    ),
}
"""By the name of the filter."""


def require_defined(session: Session, actor: Actor, query: Any, name: str) -> None:
    """Check that a protocol version of the studies in reach (of the one asked for) defines the code in this filter.
    What other studies define is as unknown as what nobody does. Raises NotFound, ValidationFailed."""
    code, study = getattr(query, name), getattr(query, "study", None)
    if code is None:
        return
    actor.sites_at(study, getattr(query, "site", None))
    versions = visible(select(ProtocolVersion.id), actor)
    if study is not None:
        versions = versions.join(Study, col(Study.id) == col(ProtocolVersion.study_id)).where(Study.code == study)
    kind = _KINDS[name]
    if not any(code in kind.defined(protocol_of(session, one)) for one in session.exec(versions) if one is not None):
        raise ValidationFailed(Fault(f"/query/{name}", kind.fault, kind.message))


def require_instrument(code: str | None) -> None:
    """Check that the registry has this instrument. Raises ValidationFailed."""
    try:
        if code is not None:
            instrument(code)
    except UnknownInstrument:
        raise ValidationFailed(Fault("/query/instrument", "unknown_instrument", "No such instrument")) from None
