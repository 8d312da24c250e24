"""Codes: a few numbers for each pattern or spectrum, without labels, and what can be read from them."""
