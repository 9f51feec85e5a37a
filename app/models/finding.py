"""Findings: what is unlikely or incomplete in an accepted record. Stored with it, never a silent change."""

from app.models.base import Shape, canonical_json


class Finding(Shape):
    """One remark of the registry on one field; `code` is stable."""

    code: str
    field: str
    message: str


def findings_text(findings: list[Finding]) -> str:
    """The stored form."""
    return canonical_json([finding.model_dump() for finding in findings]) if findings else "[]"
