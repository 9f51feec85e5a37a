"""The registry with an OpenID Connect provider made by others (docs/oidc.md)."""
