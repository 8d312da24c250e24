"""Torch's global state comes back as it was, also after an error."""

import pytest
import torch

from learning.torch_state import one_thread, seeded


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(RuntimeError, match="1 thread"), one_thread():
            raise RuntimeError(f"{torch.get_num_threads()} thread")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_global_generator_comes_back() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(9):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(9):
        assert torch.equal(torch.rand(3), first)
    with seeded(10):
        assert not torch.equal(torch.rand(3), first)
