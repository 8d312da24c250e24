"""Controllers on frames that a real instrument could give and a training day could not."""
