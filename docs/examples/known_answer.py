"""The known answer of the demo study, from its extract alone: python known_answer.py outcomes.csv"""

import sys

import polars as pl

outcomes = pl.read_csv(sys.argv[1], infer_schema_length=None).filter(pl.col("score") == "total")
pairs = outcomes.filter(pl.col("visit_code").is_in(["BL", "PRIM"]))
pairs = pairs.pivot("visit_code", index=["instrument", "subject"], values="value").drop_nulls()
for scale in ("MADRS", "SHEEHAN_SDS"):
    one = pairs.filter(pl.col("instrument") == scale).with_columns(change=pl.col("PRIM") - pl.col("BL"))
    n, before, change = one.height, one["BL"], one["change"]
    print(f"{scale}: n = {n}, baseline {before.mean():.1f} (SD {before.std():.1f}), ", end="")
    print(f"change {change.mean():.1f} (SE {change.std() / n**0.5:.1f})")
