"""Figures of merit of one frame (image contrast, quality network) and Bayesian optimisation on them."""
