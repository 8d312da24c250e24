"""What several specimens are made of: lattices, sheets, particles, films, thermal motion."""
