"""Participants of the CDISC pilot by their worst adverse event: python pilot_severity.py adverse_events.csv"""

import sys

import polars as pl

RANKS = {"mild": 1, "moderate": 2, "severe": 3}
events = pl.read_csv(sys.argv[1], infer_schema=False).with_columns(rank=pl.col("severity").replace_strict(RANKS))
worst = events.group_by("subject").agg(pl.col("rank").max())
for severity, rank in RANKS.items():
    print(f"{severity}: {worst.filter(pl.col('rank') == rank).height}")
