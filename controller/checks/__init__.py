"""What every controller passes through: its frames are prepared and examined, its claims are checked."""
