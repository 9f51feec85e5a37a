"""The study's plan as data: instruments, scores, visits, windows. Pure: no database, no web."""
