"""Data cuts: named moments of a study, made by custodians."""

from typing import Annotated

from fastapi import Depends, Query, Request, Response

from app.access import Actor, narrowed, requires, visible
from app.database import ReadSession, WriteSession
from app.models.data_cut import DataCut, DataCutCreate, DataCutFilter, DataCutList, DataCutRead
from app.pagination import Page
from app.permissions import Permission
from app.services.extracts import data_cuts
from app.services.studies import study_asked, study_by_code
from app.web.once import Made, OncePerKey
from app.web.route import Router

router = Router(prefix="/v1", tags=["extracts"])
Reader = Annotated[Actor, Depends(requires(Permission.cut_read))]
Maker = Annotated[Actor, Depends(requires(Permission.cut_make))]


@router.get("/data-cuts")
def list_data_cuts(
    query: Annotated[DataCutFilter, Query()], actor: Reader, request: Request, response: Response, session: ReadSession
) -> DataCutList:
    """The data cuts of your studies, newest first."""
    statement = narrowed(visible(data_cuts.rows(), actor), (DataCut.study_id, study_asked(session, actor, query.study)))
    rows, after = Page(request, response, actor, query).read(session, statement, DataCut.created_at, DataCut.id)
    return DataCutList(items=data_cuts.read_all(rows), next=after)


@router.post("/data-cuts", status_code=201, response_model=DataCutRead)
def make_data_cut(body: DataCutCreate, actor: Maker, once: OncePerKey, session: WriteSession) -> Response:
    """Give the present state of a study a name. Later extracts can be made of that state."""

    def made() -> Made:
        read = data_cuts.make(session, actor, body)
        return Made(read, "/v1/data-cuts", (read.id, 1))

    return once.create(session, actor, body, made, seen=lambda: study_by_code(session, actor, body.study))
