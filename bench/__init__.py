"""Benchmarks: side by side in one run, in medians and ratios."""
