"""Notifications: stored with their event, then delivered to subscribers."""
