"""Ask for the freezes and locks of many participants of a site at once, on PostgreSQL.

Revision: 0038
Follows: 0037
"""

from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Workers of the version before go on asking `locks_in_force` (0011) for each participant until they are replaced;
    after that nobody does. Like it, this takes the site's gate as one of many, and only then looks."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            """CREATE FUNCTION locks_at(asked_site integer, asked_pids text[])
            RETURNS SETOF data_lock LANGUAGE plpgsql VOLATILE AS $$
            BEGIN
              PERFORM pg_advisory_xact_lock_shared(11, asked_site);
              RETURN QUERY SELECT held.* FROM data_lock AS held
                WHERE held.site_id = asked_site AND held.lifted_at IS NULL
                  AND (held.pid IS NULL OR held.pid = ANY(asked_pids));
            END $$"""
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION locks_at(integer, text[])")
