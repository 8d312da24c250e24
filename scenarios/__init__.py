"""Scenarios in, runs and reports out: the only place that knows everything."""
