"""Figures that the README quotes and that continuous integration compares with."""
