"""Specimens: amorphous carbon as phase screens and as atoms, atomic structures."""
