"""Extracts: requested, approved, built and downloaded; and the data cuts that they show."""
