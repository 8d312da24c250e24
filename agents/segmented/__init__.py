"""What 34 segments of every pattern tell of the phase: sums and linear reconstruction."""
