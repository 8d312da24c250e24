"""Benches of codes, phases, anomalies and defects."""
