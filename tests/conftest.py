"""One torch thread everywhere, and no clock in hypothesis: how busy a machine is says nothing of the code."""

import torch
from hypothesis import settings

# Small batched matrices are many times slower with two.
torch.set_num_threads(1)

# pytest-timeout catches what hangs.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
