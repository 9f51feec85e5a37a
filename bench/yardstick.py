"""The bare yardstick: FastAPI and psycopg, and nothing else. It is what a careful engineer would write in an afternoon
without protocol, idempotency and audit chain: look up the token, check the site, store a row and an audit row, commit.

Served by uvicorn in a process of its own: `uvicorn bench.yardstick:create_yardstick --factory`. Its tables are its own
(schema `yardstick`), filled from the seeded visits. PostgreSQL only.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Annotated, Any
from uuid import UUID, uuid4

import psycopg
from fastapi import FastAPI, Header, HTTPException, Response
from pydantic import BaseModel, Field

TOKEN, CONNECTIONS = "yardstick-token", 10
"""Nobody's secret: it opens nothing but these tables."""

TABLES = f"""
CREATE SCHEMA yardstick;
CREATE TABLE yardstick.token (digest text PRIMARY KEY, account uuid NOT NULL, sites int[] NOT NULL);
CREATE TABLE yardstick.visit (
  id uuid PRIMARY KEY, site_id int NOT NULL, pid text NOT NULL, visit_code text NOT NULL, occurrence int NOT NULL,
  occurred_on date, status text NOT NULL, created_by uuid NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE yardstick.audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), actor uuid NOT NULL,
  action text NOT NULL, subject uuid NOT NULL, changes text NOT NULL);
INSERT INTO yardstick.token
  SELECT '{hashlib.sha256(TOKEN.encode()).hexdigest()}', gen_random_uuid(), array_agg(id) FROM site;
INSERT INTO yardstick.visit
  SELECT id, site_id, pid, visit_code, occurrence, occurred_on, status, created_by, created_at FROM visit;
CREATE INDEX ON yardstick.visit (site_id, created_at DESC, id DESC);
ANALYZE yardstick.visit;
"""


class Visit(BaseModel):
    site_id: int
    participant: Annotated[str, Field(min_length=12, max_length=12)]
    visit_code: Annotated[str, Field(max_length=64)]
    occurrence: Annotated[int, Field(ge=1)]
    occurred_on: date
    status: Annotated[str, Field(max_length=16)]


Bearer = Annotated[str, Header(alias="Authorization")]
_LOOK_UP = "SELECT account, sites FROM yardstick.token WHERE digest = %s"
_INSERT = """
INSERT INTO yardstick.visit (id, site_id, pid, visit_code, occurrence, occurred_on, status, created_by)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING created_at
"""
_REMEMBER = "INSERT INTO yardstick.audit (actor, action, subject, changes) VALUES (%s, 'visit:recorded', %s, %s)"
_PAGE = """
SELECT id, site_id, pid, visit_code, occurrence, occurred_on, status, created_by, created_at FROM yardstick.visit
WHERE site_id = %s AND status = %s AND (created_at, id) < (%s, %s) ORDER BY created_at DESC, id DESC LIMIT 250
"""
_NEWEST = ("infinity", "ffffffff-ffff-ffff-ffff-ffffffffffff")


def create_yardstick() -> FastAPI:
    free: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()

    @asynccontextmanager
    async def connected(_: FastAPI) -> AsyncIterator[None]:
        for _number in range(CONNECTIONS):
            free.put_nowait(await psycopg.AsyncConnection.connect(os.environ["YARDSTICK_DATABASE_URL"]))
        yield

    @asynccontextmanager
    async def transaction() -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        connection = await free.get()
        try:
            async with connection.transaction():
                yield connection
        finally:
            free.put_nowait(connection)

    app = FastAPI(lifespan=connected)

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/visits", status_code=201)
    async def record(body: Visit, authorization: Bearer) -> Response:
        visit = uuid4()
        async with transaction() as connection:
            account = await _account(connection, authorization, body.site_id)
            row = (visit, body.site_id, body.participant, *body.model_dump(exclude={"site_id", "participant"}).values())
            made = await (await connection.execute(_INSERT, (*row, account))).fetchone()
            await connection.execute(_REMEMBER, (account, visit, body.model_dump_json()))
        assert made is not None
        told = {"id": str(visit), "created_at": made[0].isoformat(), **body.model_dump(mode="json")}
        return Response(json.dumps(told), 201, media_type="application/json")

    @app.get("/visits")
    async def page(site_id: int, status: str, authorization: Bearer, after: str | None = None) -> Response:
        place = after.split("_") if after else _NEWEST
        async with transaction() as connection:
            await _account(connection, authorization, site_id)
            found = await connection.execute(_PAGE, (site_id, status, *place))
            names = [column.name for column in found.description or ()]
            items = [dict(zip(names, row, strict=True)) for row in await found.fetchall()]
        behind = f"{items[-1]['created_at'].isoformat()}_{items[-1]['id']}" if items else None
        return Response(json.dumps({"items": items, "next": behind}, default=str), media_type="application/json")

    return app


async def _account(connection: psycopg.AsyncConnection[Any], authorization: str, site_id: int) -> UUID:
    digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
    row = await (await connection.execute(_LOOK_UP, (digest,))).fetchone()
    if row is None:
        raise HTTPException(401)
    if site_id not in row[1]:
        raise HTTPException(404)
    account: UUID = row[0]
    return account
