"""Results of `stemtwin adapt`."""
