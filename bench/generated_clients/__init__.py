"""Clients that others' tools generate from docs/openapi.json (docs/site-apps.md)."""
