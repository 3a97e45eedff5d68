"""PyTorch's counter of operations, with the fused attention on a CPU, which it counts as nothing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


def flop_counter() -> 'FlopCounterMode':
    """Return a context manager that counts floating-point operations; a multiply-accumulate is two."""
    import torch
    from torch.utils import flop_counter

    def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
        return flop_counter.sdpa_flop_count(query, key, value)

    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flop_counter.FlopCounterMode(display=False, custom_mapping={operator: attention})
