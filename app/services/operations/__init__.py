"""What keeps a deployment in order: backups, the vault, old records, and the state that operators are shown."""
