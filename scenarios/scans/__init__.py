"""Acquisition and reconstruction of scans: live streams, truth, pictures, before and after a calibration."""
