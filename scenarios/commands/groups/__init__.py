"""Commands that hold others: `list`, `train`, `figures`."""
