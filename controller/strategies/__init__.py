"""One file, one controller; the file name is its name."""
