"""Direct regression of the aberrations from one frame, and the policy of reinforcement learning."""
