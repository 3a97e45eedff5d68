import pytest
import torch
from torch.nn import functional as F

from repvit_dense.compat.flop_counter import flop_counter


@pytest.mark.parametrize('masked', [False, True])
def test_attention_counts_as_two_products_of_matrices(masked):
    q = k = v = torch.zeros(1, 2, 16, 8)
    mask = torch.zeros(16, 16) if masked else None
    with torch.inference_mode(), flop_counter() as counter:
        F.scaled_dot_product_attention(q, k, v, mask)
    assert counter.get_total_flops() / 2 == 2 * (2 * 16 * 16 * 8)
