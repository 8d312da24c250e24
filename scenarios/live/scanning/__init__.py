"""Scans in the page: agents that are turned while they run, the blocks they may take in again, the beam."""
