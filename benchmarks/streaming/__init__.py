"""Speed of the agents beside the reference implementations."""
