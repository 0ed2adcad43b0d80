"""Benchmarks. Each prints its result as a table and as one line of JSON."""
