"""Measurements: each one screen of code, each ending in one line of json."""
