"""The registry against an OpenID Connect provider by others (docs/oidc.md)."""
