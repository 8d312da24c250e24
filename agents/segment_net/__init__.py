"""Network on the scan plane: its inputs, its layers, and the simulated scans that it learns from."""
