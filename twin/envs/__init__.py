"""Gymnasium environments over the Microscope seam: calibration from Ronchigrams, 4D-STEM scans."""
