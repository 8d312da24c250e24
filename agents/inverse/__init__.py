"""Regularised reconstruction: forward models, priors, the choice of the strength, and the test of single features."""
