"""Streaming reconstruction agents: `load` builds one by its name."""

from agents.base import Agent, load, names

__all__ = ["Agent", "load", "names"]
