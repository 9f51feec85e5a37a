"""Clients that other people's tools generate from docs/openapi.json (docs/site-apps.md)."""
