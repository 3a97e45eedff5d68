"""Attention layers of the graphs, compared with those of mmcv and mmdet."""

import pytest
import torch

import repvit_dense  # noqa: F401  (before mmcv.ops: it replaces missing operators)
from repvit_dense.exporting.graphs import attention


def randomize(layer):
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer.eval().requires_grad_(False)


@pytest.mark.parametrize('masked', [False, True])
def test_attention(masked):
    from mmcv.cnn.bricks.transformer import MultiheadAttention

    layer = randomize(MultiheadAttention(16, 4, batch_first=True))
    query, query_position, memory, memory_position = (torch.randn(2, n, 16) for n in (5, 5, 7, 7))
    blocked = torch.rand(2, 7) < 0.5 if masked else torch.zeros(2, 7, dtype=torch.bool)
    blocked[:, 0] = False
    expected = layer(query, memory, memory, None, query_position, memory_position, key_padding_mask=blocked)
    mask = (blocked.float() * attention.BLOCKED)[:, None, None] if masked else None
    output = attention.Attention(layer)(query, query_position, memory, memory_position, mask)
    torch.testing.assert_close(output, expected)


def test_deformable_attention():
    """Use levels of odd sizes; many points lie outside the border, some by more than a pixel."""
    from mmcv.ops import MultiScaleDeformableAttention

    layer = randomize(MultiScaleDeformableAttention(16, 4, num_levels=3, num_points=2, batch_first=True))
    sizes = [(1, 2), (3, 5), (6, 9)]
    query, position = torch.randn(2, 71, 16), torch.randn(1, 71, 16)
    reference = torch.rand(71, 2)
    expected = layer(
        query,
        query_pos=position,
        reference_points=reference[None, :, None].expand(2, -1, 3, -1),
        spatial_shapes=torch.tensor(sizes),
    )
    output = attention.DeformableAttention(layer)(query, position, sizes, reference.t())
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('settings', [{'normalize': True}, {'normalize': False}, {'normalize': True, 'offset': -0.5}])
def test_positions_inside_a_padded_image(settings):
    from mmdet.models.layers import SinePositionalEncoding

    encoding = SinePositionalEncoding(num_feats=6, **settings)
    padding = torch.ones(2, 5, 7)
    padding[0, :3, :6] = padding[1, :5, :2] = 0
    valid = torch.tensor([[3.0, 6.0], [5.0, 2.0]])
    sides = attention.ramp(5, valid[:, :1]), attention.ramp(7, valid[:, 1:])
    positions = attention.sine_position(encoding, *sides).view(2, 5, 7, 12)
    expected = encoding(padding).permute(0, 2, 3, 1)
    torch.testing.assert_close(positions[padding == 0], expected[padding == 0])


def test_positions_without_padding():
    from mmdet.models.layers import SinePositionalEncoding

    encoding = SinePositionalEncoding(num_feats=6, normalize=True)
    positions = attention.sine_position(encoding, attention.ramp(5), attention.ramp(7))
    expected = encoding(None, torch.zeros(1, 1, 5, 7)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(positions, expected)
