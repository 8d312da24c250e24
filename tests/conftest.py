"""One torch thread everywhere: small batched matrices are many times slower with two."""

import torch

torch.set_num_threads(1)
