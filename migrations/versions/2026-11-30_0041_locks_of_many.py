"""Find the freezes and locks of many participants by one call on PostgreSQL, which takes the gate of each site once.

Revision: 0041
Follows: 0040
"""

from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The function for one participant stays, as workers of the version before call it. The gate is taken first, and
    then the next statement sees what was committed meanwhile. 11 is the gate's key in app/database.py."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            """CREATE FUNCTION locks_in_force(asked_sites integer[], asked_pids text[])
            RETURNS SETOF data_lock LANGUAGE plpgsql VOLATILE ROWS 10 AS $$
            DECLARE asked_site integer;
            BEGIN
              FOREACH asked_site IN ARRAY asked_sites LOOP
                PERFORM pg_advisory_xact_lock_shared(11, asked_site);
                RETURN QUERY SELECT held.* FROM data_lock AS held
                  WHERE held.site_id = asked_site AND held.lifted_at IS NULL
                    AND (held.pid IS NULL OR held.pid = ANY (asked_pids));
              END LOOP;
            END $$"""
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION locks_in_force(integer[], text[])")
