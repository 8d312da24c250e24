"""What controllers and agents share when they learn: weights files, resumable optimisation, work folders, trainings."""
