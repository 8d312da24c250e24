"""Images from detectors and their differences."""
