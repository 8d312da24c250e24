"""Whittle likelihood of the Ronchigram's power spectrum: model, fit, sub-areas, Cramer-Rao bound."""
