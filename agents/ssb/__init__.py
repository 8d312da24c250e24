"""Single-sideband ptychography: weights, accumulation, orientation, forward model, image."""
