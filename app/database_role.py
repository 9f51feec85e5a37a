"""What the server's PostgreSQL role may do: PRIVILEGES are given to it, and it is checked that it may do no more, nor
less."""

from collections import defaultdict

from sqlalchemy import Connection, text
from sqlmodel import SQLModel

import app.models  # noqa: F401 - fills the metadata
from app.database import Database
from app.errors import CannotGoOn
from app.privileges import PRIVILEGES, needed, to_grant
from app.settings import Settings

OF_A_SITE = frozenset(
    table.name
    for table in SQLModel.metadata.sorted_tables
    if "site_id" in table.c and table.name not in {"role_grant", "subscription"}
)
"""The tables whose rows belong to sites: row-level security holds them all. Grants are asked for before any actor, and
subscriptions are an admin's, who sees no site's rows."""


_FUNCTIONS = """
SELECT oid::regprocedure::text FROM pg_proc
WHERE pronamespace = current_schema()::regnamespace AND proname IN ('audit_append', 'locks_in_force')
"""
"""What the server calls, with its own rights: only triggers run with their owner's."""


class SecondWallMissing(CannotGoOn):
    """The server would connect with a role that row-level security does not bind; the message says what to do."""


class RightsMissing(CannotGoOn):
    """The server would connect with a role that may not do the server's work; the message says what to do."""


def grant(connection: Connection, role: str) -> None:
    """Give the server's role exactly PRIVILEGES, on every table that is there. Run as the owner of the tables."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    to = quote(role)
    names = connection.exec_driver_sql("SELECT current_schema(), current_database()").one()
    schema, database = (quote(name) for name in names)
    there: defaultdict[str, set[str]] = defaultdict(set)
    for table, column in connection.exec_driver_sql(_COLUMNS):
        there[table].add(column)
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        connection.exec_driver_sql(f"REVOKE ALL ON ALL {kind} IN SCHEMA {schema} FROM PUBLIC, {to}")
    connection.exec_driver_sql(f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC, {to}")
    connection.exec_driver_sql(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC, {to}")
    connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {database} TO {to}")
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {to}")
    connection.exec_driver_sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {to}")
    for function in connection.exec_driver_sql(_FUNCTIONS).scalars():
        connection.exec_driver_sql(f"GRANT EXECUTE ON FUNCTION {function} TO {to}")
    for table in sorted(there.keys() & PRIVILEGES.keys()):
        given = to_grant(table, there[table])
        connection.exec_driver_sql(f"GRANT {given} ON {schema}.{quote(table)} TO {to}")


_COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"


_TOO_MIGHTY = """
SELECT EXISTS (
  SELECT 1 FROM pg_roles WHERE pg_has_role(current_user, oid, 'MEMBER') AND (
    rolsuper OR rolbypassrls OR rolcreaterole OR rolreplication
    OR rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')
    OR rolname IN ('pg_read_all_data', 'pg_write_all_data', 'pg_maintain')
  )
) OR EXISTS (
  SELECT datdba FROM pg_database WHERE datname = current_database() AND pg_has_role(current_user, datdba, 'MEMBER')
  UNION ALL
  SELECT nspowner FROM pg_namespace WHERE nspname = current_schema() AND pg_has_role(current_user, nspowner, 'MEMBER')
  UNION ALL
  SELECT relowner FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
  AND pg_has_role(current_user, relowner, 'MEMBER')
)
"""
"""Whether the role is, or may become, one that row-level security does not bind; one that reaches past all grants, by
files and programs of the server, by replication, or by what PostgreSQL gives for all tables; or an owner: of tables,
or of the schema or the database, who may drop tables of others or put some before them."""


_GUARDED = "SELECT relname FROM pg_class WHERE relrowsecurity AND relnamespace = current_schema()::regnamespace"


def require_second_wall(database: Database, settings: Settings, name: str = "DATABASE") -> None:
    """Raises RightsMissing when PostgreSQL would not let the server do its work, and in production SecondWallMissing
    when it would not hold it to its actor's sites."""
    if database.is_sqlite:
        return
    _require_rights(database, name)
    if settings.environment != "production":
        return
    with database.engine.connect() as connection:
        if connection.exec_driver_sql(_TOO_MIGHTY).scalar():
            raise SecondWallMissing(
                f"The server must not connect as a superuser or as the owner of the tables, the schema or the "
                f"database, nor as a role that may become one, replicate, or reach all data, files or programs by a "
                f"role of PostgreSQL's own (pg_...). Give REGISTRY_{name}_URL a role that owns nothing, "
                f"REGISTRY_OWNER_{name}_URL the owner's, and run: registry migrate"
            )
        open_tables = sorted(OF_A_SITE - set(connection.exec_driver_sql(_GUARDED).scalars()))
    if open_tables:
        raise SecondWallMissing(
            f"Row-level security is off for {', '.join(open_tables)}. Turn it on as the owner of the tables: "
            "ALTER TABLE ... ENABLE ROW LEVEL SECURITY"
        )


_LACKED = text("""
SELECT DISTINCT relname FROM unnest(CAST(:tables AS text[]), CAST(:verbs AS text[]), CAST(:columns AS text[]))
  AS needed (name, verb, of_column)
JOIN pg_class ON relname = name AND relnamespace = current_schema()::regnamespace
LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attname = of_column
WHERE NOT CASE WHEN of_column IS NULL THEN has_table_privilege(pg_class.oid, verb)
  ELSE coalesce(has_column_privilege(pg_class.oid, attnum, verb), TRUE) END
""")
"""Of what is there: a backup of an earlier version is looked at as it is."""


def _require_rights(database: Database, name: str) -> None:
    tables, verbs, columns = zip(*needed(), strict=True)
    asked = {"tables": list(tables), "verbs": list(verbs), "columns": list(columns)}
    with database.engine.connect() as connection:
        lacked = sorted(connection.scalars(_LACKED, asked))
    if lacked:
        raise RightsMissing(
            f"The role of REGISTRY_{name}_URL may not do the server's work on {', '.join(lacked)}. Set "
            f"REGISTRY_OWNER_{name}_URL to the address of the tables' owner, and run: registry migrate"
        )


def require_vault_wall(database: Database, settings: Settings) -> None:
    """The same of a vault of its own. Raises SecondWallMissing."""
    if database.vault is not None:
        require_second_wall(database.vault, settings, "VAULT")
