"""Visits and what is measured at them: their schedule, outcomes and scores."""
