"""Learning for controllers and agents: weights files, resumable optimisation, work folders, trainings."""
