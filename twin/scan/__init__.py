"""4D-STEM scans: plan, scan errors, diffraction patterns, detector response, acquisition."""
