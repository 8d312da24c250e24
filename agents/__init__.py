"""Streaming reconstruction agents."""
