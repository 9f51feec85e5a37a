"""Measurements: every figure with its floor, taken side by side in one run. See docs/performance.md."""
