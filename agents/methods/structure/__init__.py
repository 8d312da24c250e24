"""Structure without labels, and defects."""
