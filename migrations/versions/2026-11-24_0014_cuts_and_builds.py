"""Named data cuts, and extracts that a worker builds in chunks.

Revision: 0014
Follows: 0013
"""

from uuid import UUID

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_STATUSES = (
    ("requested", "refused", "ready", "expired", "revoked"),
    ("requested", "refused", "building", "failed", "ready", "expired", "revoked"),
)
_AT_ONCE = UUID(int=0)
"""The build of files that were written in the request of their approval, as before this step."""


def upgrade() -> None:
    _known(_STATUSES[1])
    op.add_column("extract", sa.Column("formats", sa.Text, nullable=False, server_default='["csv","ndjson"]'))
    op.add_column("extract", sa.Column("organisation", sa.String(200), nullable=False, server_default=""))
    op.add_column("extract", sa.Column("cut", sa.String(64)))
    op.add_column("extract", sa.Column("heads", sa.Text))
    op.execute(
        "UPDATE extract SET organisation = (SELECT organisation FROM account WHERE account.id = extract.requested_by)"
    )
    op.create_table(
        "data_cut",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("heads", sa.Text, nullable=False),
        sa.Column("created_by", sa.Uuid, sa.ForeignKey("account.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("study_id", "name"),
    )
    op.create_table(
        "extract_build",
        sa.Column("extract_id", sa.Uuid, sa.ForeignKey("extract.id"), primary_key=True),
        sa.Column("build", sa.Uuid),
        sa.Column("leased_until", sa.DateTime(timezone=True)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "extract_chunk",
        sa.Column("extract_id", sa.Uuid, sa.ForeignKey("extract.id"), primary_key=True),
        sa.Column("build", sa.Uuid, primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":  # compressing each chunk takes longer than all else
        op.execute("ALTER TABLE extract_chunk ALTER COLUMN content SET STORAGE EXTERNAL")
    build = _AT_ONCE if op.get_bind().dialect.name == "postgresql" else _AT_ONCE.hex
    op.add_column("extract_file", sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("extract_file", sa.Column("build", sa.Uuid, nullable=False, server_default=str(build)))
    op.execute("UPDATE extract_file SET bytes = length(content)")
    op.execute(
        "INSERT INTO extract_chunk (extract_id, build, name, start, content) "
        "SELECT extract_id, build, name, 0, content FROM extract_file"
    )
    op.drop_column("extract_file", "content")


def downgrade() -> None:
    """Only what was built in one piece can go back: a file of several chunks is lost, its extract has expired."""
    op.add_column("extract_file", sa.Column("content", sa.LargeBinary, nullable=False, server_default=""))
    op.execute(
        "DELETE FROM extract_file WHERE NOT EXISTS (SELECT 1 FROM extract_chunk c WHERE c.extract_id = "
        "extract_file.extract_id AND c.build = extract_file.build AND c.name = extract_file.name AND "
        "c.start = 0 AND length(c.content) = extract_file.bytes)"
    )
    op.execute(
        "UPDATE extract_file SET content = (SELECT c.content FROM extract_chunk c WHERE c.extract_id = "
        "extract_file.extract_id AND c.build = extract_file.build AND c.name = extract_file.name AND c.start = 0)"
    )
    op.drop_column("extract_file", "build")
    op.drop_column("extract_file", "bytes")
    for table in ("extract_chunk", "extract_build", "data_cut"):
        op.drop_table(table)
    op.execute("UPDATE extract SET status = 'requested' WHERE status IN ('building', 'failed')")
    for name in ("heads", "cut", "organisation", "formats"):
        op.drop_column("extract", name)
    _known(_STATUSES[0])


def _known(statuses: tuple[str, ...]) -> None:
    """Put another rule in place. On SQLite its text is changed, as step 0013 explains."""
    text = f"status IN ({', '.join(map(repr, statuses))})"
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.drop_constraint("status_known", "extract", type_="check")
        op.create_check_constraint("status_known", "extract", text)
        return
    (version,) = connection.exec_driver_sql("PRAGMA schema_version").one()
    (written,) = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE name = 'extract'").one()
    start = written.index("status IN (")
    written = written[:start] + text + written[written.index(")", start) + 1 :]
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql("UPDATE sqlite_schema SET sql = ? WHERE name = 'extract'", (written,))
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    faults = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    assert faults == ["ok"], faults
