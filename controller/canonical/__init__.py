"""Frames and coefficients as every controller reads them: one camera, one disc, phases at the aperture's edge."""
