"""Row-level security by site on PostgreSQL, and walls around the audit trail on both engines.

Revision: 0003
Follows: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OF_A_SITE = (
    "participant",
    "consent",
    "vault_identity",
    "visit",
    "outcome",
    "outcome_score",
    "adverse_event",
    "extract_subject",
)
_SITES = (
    "site_id = ANY ((SELECT string_to_array(nullif(current_setting('registry.sites', true), ''), ',')::int[])::int[])"
)
"""Wrapped in a SELECT, so that the setting is read once a statement and the rule can use an index."""

_GENESIS = "0" * 64
_REFUSED = "audit entries are append-only"
_NO_FOLLOWER = f"{_REFUSED}: an entry must follow the last one"
_NO_HEAD = "the head of an audit chain only moves forward, to an entry"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _keep_sites_apart()
        _guard_on_postgresql()
    else:
        _guard_on_sqlite()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_entry_follows() CASCADE")
        op.execute("DROP FUNCTION audit_chain_moves_forward() CASCADE")
        for table in (*OF_A_SITE, "idempotency_record", "audit_entry", "audit_chain"):
            op.execute(f"DROP POLICY IF EXISTS own_sites ON {table}")
            op.execute(f"DROP POLICY IF EXISTS own_events ON {table}")
            op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        return
    for trigger in ("audit_entry_follows", "audit_chain_starts", "audit_chain_moves_forward", "audit_chain_no_delete"):
        op.execute(f"DROP TRIGGER {trigger}")


def _keep_sites_apart() -> None:
    """Not FORCEd: the owner migrates, verifies chains and takes backups. The server refuses to run as the owner."""
    rules = dict.fromkeys(OF_A_SITE, _SITES)
    rules["idempotency_record"] = f"site_id IS NULL OR {_SITES}"  # unset until the first request's end
    rules["audit_chain"] = f"site_id = 0 OR {_SITES}"  # 0: the registry's own chain, where everybody's events go
    rules["audit_entry"] = _SITES
    for table, rule in rules.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_sites ON {table} USING ({rule}) WITH CHECK ({rule})")
    op.execute("CREATE POLICY own_events ON audit_entry FOR INSERT WITH CHECK (site_id = 0)")


def _guard_on_postgresql() -> None:
    if op.get_context().as_sql:
        schema = "public"  # nobody can be asked
    else:
        schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar()
    # They look past the reader's own sites, so they run as their owner; no other schema can slip a table in.
    as_owner = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
    op.execute(
        f"""CREATE FUNCTION audit_entry_follows() RETURNS trigger {as_owner} AS $$
        DECLARE last record;
        BEGIN
          SELECT seq, hash INTO last FROM {schema}.audit_entry WHERE site_id = NEW.site_id ORDER BY seq DESC LIMIT 1;
          IF NEW.seq IS DISTINCT FROM coalesce(last.seq, 0) + 1
             OR NEW.previous_hash IS DISTINCT FROM coalesce(last.hash, '{_GENESIS}') THEN
            RAISE EXCEPTION '{_NO_FOLLOWER}';
          END IF;
          RETURN NEW;
        END $$"""
    )
    op.execute(
        f"""CREATE FUNCTION audit_chain_moves_forward() RETURNS trigger {as_owner} AS $$
        BEGIN
          IF TG_OP = 'INSERT' AND NEW.seq = 0 AND NEW.hash = '{_GENESIS}' THEN RETURN NEW; END IF;
          IF TG_OP = 'UPDATE' AND NEW.site_id = OLD.site_id AND NEW.seq = OLD.seq AND NEW.hash = OLD.hash THEN
            RETURN NEW;
          END IF;
          IF TG_OP = 'UPDATE' AND NEW.site_id = OLD.site_id AND NEW.seq > OLD.seq AND EXISTS (
            SELECT 1 FROM {schema}.audit_entry WHERE site_id = NEW.site_id AND seq = NEW.seq AND hash = NEW.hash
          ) THEN RETURN NEW; END IF;
          RAISE EXCEPTION '{_NO_HEAD}';
        END $$"""
    )
    op.execute(
        """CREATE TRIGGER audit_entry_follows BEFORE INSERT ON audit_entry
        FOR EACH ROW EXECUTE FUNCTION audit_entry_follows()"""
    )
    op.execute(
        """CREATE TRIGGER audit_chain_moves_forward BEFORE INSERT OR UPDATE OR DELETE ON audit_chain
        FOR EACH ROW EXECUTE FUNCTION audit_chain_moves_forward()"""
    )
    op.execute(
        """CREATE TRIGGER audit_chain_no_truncate BEFORE TRUNCATE ON audit_chain
        FOR EACH STATEMENT EXECUTE FUNCTION audit_chain_moves_forward()"""
    )
    op.execute("ALTER TABLE audit_entry ENABLE ALWAYS TRIGGER audit_entry_follows")
    for trigger in ("audit_chain_moves_forward", "audit_chain_no_truncate"):
        op.execute(f"ALTER TABLE audit_chain ENABLE ALWAYS TRIGGER {trigger}")


def _guard_on_sqlite() -> None:
    last = "FROM audit_entry WHERE site_id = NEW.site_id ORDER BY seq DESC LIMIT 1"
    triggers = {
        "audit_entry_follows BEFORE INSERT ON audit_entry": (
            f"NEW.seq IS NOT coalesce((SELECT seq {last}), 0) + 1"
            f" OR NEW.previous_hash IS NOT coalesce((SELECT hash {last}), '{_GENESIS}')",
            _NO_FOLLOWER,
        ),
        "audit_chain_starts BEFORE INSERT ON audit_chain": (
            f"NEW.seq IS NOT 0 OR NEW.hash IS NOT '{_GENESIS}'",
            _NO_HEAD,
        ),
        "audit_chain_moves_forward BEFORE UPDATE ON audit_chain": (
            "NEW.site_id IS NOT OLD.site_id OR NOT ((NEW.seq = OLD.seq AND NEW.hash = OLD.hash)"
            " OR (NEW.seq > OLD.seq AND EXISTS (SELECT 1 FROM audit_entry"
            " WHERE site_id = NEW.site_id AND seq = NEW.seq AND hash = NEW.hash)))",
            _NO_HEAD,
        ),
        "audit_chain_no_delete BEFORE DELETE ON audit_chain": ("1", _NO_HEAD),
    }
    for trigger, (rule, message) in triggers.items():
        op.execute(f"CREATE TRIGGER {trigger} WHEN {rule} BEGIN SELECT RAISE(ABORT, '{message}'); END")
