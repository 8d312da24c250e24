"""One file is one agent, found by its name."""
