"""Accounts, their roles, and how people and site apps sign in."""
