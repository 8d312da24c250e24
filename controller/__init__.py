"""Closed-loop calibration controllers."""
