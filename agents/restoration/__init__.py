"""Restoration of images: noise, jitter and tail removed by a network; Wiener's filter to compare with."""
