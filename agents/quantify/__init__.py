"""Numbers from an image of atomic columns: positions, cross-sections, counts of atoms, each with a standard error."""
