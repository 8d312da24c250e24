"""A calibration run: instrument, loop, results on disc, page and plots."""
