"""Keys, passwords, access tokens and sealed values. Knows no roles and no tables."""
