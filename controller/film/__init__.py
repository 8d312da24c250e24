"""Joint fit of the film's phase and the aberrations to several frames of one region."""
