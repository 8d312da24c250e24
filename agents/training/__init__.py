"""Trainings of networks that agents use: one file per network."""

GROUP = "stemtwin.agent_trainings"
