"""Read an audit chain by its key whatever the planner believes, on PostgreSQL.

A plan inside a function is made once a session. Made while the trail is small it reads the trail whole, until the next
ANALYZE: in the first minutes of a registry, and of every restored one, each entry cost more than the one before.

Revision: 0022
Follows: 0021
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_GENESIS = "0" * 64
_NO_HEAD = "the head of an audit chain only moves forward, to an entry"

_AS_OWNER = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
_BY_INDEX = "SET enable_seqscan = off"


def upgrade() -> None:
    """The one order that only the key has keeps other indexes out, too."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        _append(
            f"VOLATILE {_BY_INDEX}",
            "(SELECT at FROM audit_entry WHERE site_id = chain AND seq <= head.seq ORDER BY seq DESC LIMIT 1)",
        )
    )
    op.execute(
        _moves_forward(
            f"{_AS_OWNER} {_BY_INDEX}",
            "(NEW.seq, NEW.hash) = (SELECT seq, hash FROM {}.audit_entry"
            " WHERE site_id = NEW.site_id AND seq <= NEW.seq ORDER BY seq DESC LIMIT 1)",
        )
    )
    op.execute(f"ALTER FUNCTION audit_entry_follows() {_BY_INDEX}")


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(_append("VOLATILE", "(SELECT max(at) FROM audit_entry WHERE site_id = chain AND seq = head.seq)"))
    op.execute(
        _moves_forward(
            _AS_OWNER,
            "EXISTS (SELECT 1 FROM {}.audit_entry WHERE site_id = NEW.site_id AND seq = NEW.seq AND hash = NEW.hash)",
        )
    )
    op.execute("ALTER FUNCTION audit_entry_follows() RESET enable_seqscan")


def _append(manner: str, last_moment: str) -> str:
    """As 0017 made it, but for how it looks up the moment of the last entry."""
    return f"""CREATE OR REPLACE FUNCTION audit_append(
          chain integer, happened text, request text, events json, stored bigint)
        RETURNS bigint LANGUAGE plpgsql {manner} AS $$
        DECLARE head record; told record; digest text; moment timestamptz; written text;
        BEGIN
          SELECT seq, hash INTO head FROM audit_chain WHERE site_id = chain FOR UPDATE;
          IF NOT FOUND THEN
            INSERT INTO audit_chain (site_id, seq, hash) VALUES (chain, 0, '{_GENESIS}')
              ON CONFLICT (site_id) DO UPDATE SET seq = audit_chain.seq RETURNING seq, hash INTO head;
          END IF;
          -- never before the entry that it follows: whoever waited for the head took the time earlier
          moment := greatest(happened::timestamptz, {last_moment});
          written := to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
          FOR told IN SELECT * FROM json_to_recordset(events) AS one(
            actor text, action text, subject_type text, subject_id text, subject_version integer, changes text,
            reason text)
          LOOP
            digest := encode(sha256(convert_to(head.hash || chr(10)
              || '{{"action":' || to_json(told.action) || ',"actor":' || to_json(told.actor)
              || ',"at":' || to_json(written) || ',"changes":' || to_json(told.changes)
              || ',"reason":' || coalesce(to_json(told.reason)::text, 'null')
              || ',"request_id":' || coalesce(to_json(request)::text, 'null')
              || ',"seq":' || head.seq + 1 || ',"site_id":' || chain
              || ',"subject_id":' || to_json(told.subject_id) || ',"subject_type":' || to_json(told.subject_type)
              || ',"subject_version":' || told.subject_version || '}}', 'UTF8')), 'hex');
            INSERT INTO audit_entry (site_id, seq, at, actor, action, subject_type, subject_id, subject_version,
                changes, reason, request_id, previous_hash, hash)
              VALUES (chain, head.seq + 1, moment, told.actor, told.action, told.subject_type,
                told.subject_id, told.subject_version, told.changes, told.reason, request, head.hash, digest);
            head.seq := head.seq + 1;
            head.hash := digest;
          END LOOP;
          UPDATE audit_chain SET seq = head.seq, hash = head.hash WHERE site_id = chain;
          RETURN head.seq;
        END $$"""


def _moves_forward(manner: str, is_an_entry: str) -> str:
    """As 0003 made it, but for how it looks up the entry that a head moves to."""
    if op.get_context().as_sql:
        schema = "public"  # nobody can be asked
    else:
        schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar()
    return f"""CREATE OR REPLACE FUNCTION audit_chain_moves_forward() RETURNS trigger {manner} AS $$
        BEGIN
          IF TG_OP = 'INSERT' AND NEW.seq = 0 AND NEW.hash = '{_GENESIS}' THEN RETURN NEW; END IF;
          IF TG_OP = 'UPDATE' AND NEW.site_id = OLD.site_id AND NEW.seq = OLD.seq AND NEW.hash = OLD.hash THEN
            RETURN NEW;
          END IF;
          IF TG_OP = 'UPDATE' AND NEW.site_id = OLD.site_id AND NEW.seq > OLD.seq
             AND {is_an_entry.format(schema)} THEN
            RETURN NEW;
          END IF;
          RAISE EXCEPTION '{_NO_HEAD}';
        END $$"""
