"""Phase from 34 segments of every pattern: sums and linear reconstruction."""
