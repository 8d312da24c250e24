"""Trainings of the shipped weights: simulated frames, optimisation, one file per network."""

GROUP = "stemtwin.trainings"
