"""Numbers and clean images from an annular dark-field image."""
