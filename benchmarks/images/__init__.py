"""Restored images: how near to the truth, and what they invent."""
