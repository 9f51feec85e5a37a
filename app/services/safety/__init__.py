"""Adverse events, the reporting clocks of serious ones, and safety signals."""
