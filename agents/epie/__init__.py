"""The extended ptychographic iterative engine (ePIE): data kept in memory, update steps, probe, image."""
