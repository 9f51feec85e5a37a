"""Findings: what is unlikely or incomplete in an accepted record. They are stored with it; the record is not
changed."""

from app.models.base import Shape, canonical_json


class Finding(Shape):
    """A remark of the registry on one field; `code` is stable."""

    code: str
    field: str
    message: str


def findings_text(findings: list[Finding]) -> str:
    """Findings as JSON text, as they are stored."""
    return canonical_json([finding.model_dump() for finding in findings]) if findings else "[]"
