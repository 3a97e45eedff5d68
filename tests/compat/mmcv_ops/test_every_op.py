"""All ops in low precision, copied, under autocast and under torch.compile."""

import copy
import pickle
from functools import partial

import mmcv.ops as ops
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

ms_deform_attn = MultiScaleDeformableAttnFunction.apply
LOW = pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])


@pytest.fixture
def cases(draw, draw_features, rois, geometry, deform_inputs, levels, attention_inputs):
    """Return the differentiable ops as name -> (function, floating-point inputs)."""
    rois, target = torch.tensor(rois), torch.tensor([0, 3, 2, 1, -1, 2])
    features, offset, mask, weight, bias = deform_inputs()
    geometry = tuple(geometry.values())

    def align(mode, x):
        return ops.roi_align(x, rois.to(x.dtype), 2, 0.5, 0, mode, True)

    return {
        'roi_align avg': (partial(align, 'avg'), [draw_features()]),
        'roi_align max': (partial(align, 'max'), [draw_features()]),
        'roi_pool': (lambda x: ops.roi_pool(x, rois.to(x.dtype), 2, 0.5), [draw_features()]),
        'deform_conv2d': (lambda *t: ops.deform_conv2d(*t, *geometry), [features, offset, weight]),
        'modulated_deform_conv2d': (
            lambda *t: ops.modulated_deform_conv2d(*t, *geometry),
            [features, offset, mask, weight, bias],
        ),
        'ms_deform_attn': (lambda v, *t: ms_deform_attn(v, *levels, *t, 64), attention_inputs()),
        'sigmoid_focal_loss': (lambda x: ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'none'), [draw(6, 4)]),
        'softmax_focal_loss': (lambda x: ops.softmax_focal_loss(x, target, 2.0, 0.25, None, 'sum'), [draw(6, 4)]),
    }


@LOW
def test_low_precision_gives_the_rounded_float32_result(fallback, cases, dtype):
    tolerance = {'rtol': 4 * torch.finfo(dtype).eps, 'atol': 4 * torch.finfo(dtype).eps}
    for name, (op, inputs) in cases.items():
        inputs = [t.detach().to(dtype).requires_grad_() for t in inputs]
        wide = [t.detach().float().requires_grad_() for t in inputs]
        output, expected = op(*inputs), op(*wide)
        assert output.dtype == dtype, name
        torch.testing.assert_close(output.float(), expected, **tolerance, msg=lambda m, n=name: f'{n}: {m}')
        gradients, expected = (torch.autograd.grad(o.sum(), i) for o, i in ((output, inputs), (expected, wide)))
        # Maximum pooling stores the position of the maximum in low precision, which moves its gradient.
        for got, want in zip(gradients, expected, strict=True):
            assert got.dtype == dtype, name
            if name != 'roi_align max':
                torch.testing.assert_close(got.float(), want, **tolerance, msg=lambda m, n=name: f'{n}: {m}')
            torch.testing.assert_close(got.float().sum(), want.sum(), rtol=0.05, atol=0.05)


@LOW
def test_box_ops_accept_low_precision(fallback, draw_boxes, dtype):
    boxes, scores = draw_boxes(30).to(dtype), torch.linspace(0, 1, 30).to(dtype)
    wide = boxes.float(), scores.float()
    assert ops.nms(boxes, scores, 0.4)[1].tolist() == ops.nms(*wide, 0.4)[1].tolist()
    assert ops.nms(wide[0], scores, 0.4, offset=1)[1].tolist() == ops.nms(*wide, 0.4, offset=1)[1].tolist()
    assert ops.soft_nms(boxes, scores)[1].tolist() == ops.soft_nms(*wide)[1].tolist()
    overlaps = ops.bbox_overlaps(boxes, boxes)
    assert overlaps.dtype == dtype
    torch.testing.assert_close(overlaps, ops.bbox_overlaps(wide[0], wide[0]).to(dtype))


class Attention(ops.MultiScaleDeformableAttention):
    """Attention over fixed levels, whose inputs are all floating-point tensors."""

    def forward(self, query, value, points):
        maps = {'spatial_shapes': torch.tensor([[4, 5], [2, 3]]), 'level_start_index': torch.tensor([0, 20])}
        return super().forward(query, value=value, reference_points=points, **maps)


@pytest.fixture
def modules(draw, draw_features, rois):
    """Return the modules that use the ops, each with inputs; offsets and weights depend on the input."""
    features, rois = draw_features().float(), torch.tensor(rois)
    pack = ops.ModulatedDeformConv2dPack(3, 4, 3, padding=1)
    torch.nn.init.normal_(pack.conv_offset.weight, std=0.1)
    attention = Attention(16, 2, 2, 2, batch_first=True).eval()
    query, value = draw(1, 4 + 26, 16).float().split((4, 26), 1)
    return [
        (ops.RoIAlign((2, 2), 0.5), (features, rois)),
        (ops.RoIPool((2, 2), 0.5), (features, rois)),
        (ops.DeformConv2d(3, 4, 3, padding=1), (features, draw(2, 18, 6, 7, low=-2, high=2).float())),
        (pack, (features,)),
        (attention, (query.detach(), value.detach(), draw(1, 4, 2, 2).float())),
    ]


def test_modules_survive_deepcopy_and_pickle(fallback, modules):
    for module, inputs in modules:
        expected = module(*inputs)
        assert torch.equal(copy.deepcopy(module)(*inputs), expected)
        assert torch.equal(pickle.loads(pickle.dumps(module))(*inputs), expected)


def test_modules_run_under_autocast(fallback, modules):
    for module, (first, *rest) in modules:
        first.requires_grad_()
        expected = module(first, *rest)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            output = module(first, *rest)
        torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)
        output.sum().backward()
        assert first.grad.isfinite().all() and first.grad.any()


def test_torch_compile_gives_the_same_values_and_gradients(fallback, modules):
    # aot_eager traces forward and backward as any backend does, and needs no C++ compiler.
    for module, (first, *rest) in modules:
        first.requires_grad_()
        results = []
        for run in (module, torch.compile(module, backend='aot_eager')):
            output = run(first * 2, *rest)
            results.append((output, *torch.autograd.grad((output * output).sum(), first)))
        for compiled, expected in zip(*results, strict=True):
            torch.testing.assert_close(compiled, expected)


@pytest.mark.parametrize('op', [ops.nms, ops.soft_nms])
def test_torch_compile_accepts_box_ops(fallback, draw_boxes, draw, op):
    def select(boxes, scores):
        dets, indices = op(boxes * 2, scores, 0.3)
        return dets + 1, indices

    boxes, scores = draw_boxes(30), draw(30).float()
    for compiled, expected in zip(
        torch.compile(select, backend='aot_eager')(boxes, scores), select(boxes, scores), strict=True
    ):
        assert torch.equal(compiled, expected)
