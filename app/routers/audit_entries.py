"""The audit trail: one row for each changed field, as JSON pages or as one CSV."""

from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.access import Actor, requires
from app.database import ReadSession
from app.models.audit import AuditEntry, AuditFilter, AuditFormat, AuditList
from app.pagination import Page
from app.permissions import Permission
from app.services.trail import audit_trail
from app.web.route import Router

router = Router(prefix="/v1/audit-entries", tags=["audit trail"])
Reader = Annotated[Actor, Depends(requires(Permission.audit_read))]


@router.get("", response_model=AuditList, responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}})
def list_audit_entries(
    query: Annotated[AuditFilter, Query()], actor: Reader, request: Request, response: Response, session: ReadSession
) -> Any:
    """Who changed what, when and why, newest first in each chain; with `format=csv` all at once, oldest first."""
    statement = audit_trail.asked(session, actor, query)
    if query.format is AuditFormat.csv:
        lines = audit_trail.csv_of(request.app.state.database, actor, statement)
        headers = {"Content-Disposition": 'attachment; filename="audit-entries.csv"'}
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)
    page = Page(request, response, actor, query)
    with audit_trail.in_sight(session, actor):
        entries, after = page.read(session, statement, AuditEntry.site_id, AuditEntry.seq)
    return AuditList(items=audit_trail.rows_of(session, entries), next=after)
