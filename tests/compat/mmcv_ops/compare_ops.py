"""Print the largest absolute differences between the fallback ops and mmcv's compiled ones, forward and backward.

    python tests/compat/mmcv_ops/compare_ops.py

The script needs mmcv with its compiled extension (`make compiled-ops`). Inputs are float32, on the GPU if there is one.
Ops that mmcv has not compiled for the device are listed as such. The exit code is 1 if a selection of boxes differs.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
try:
    import mmcv._ext as compiled
except ModuleNotFoundError as error:
    sys.exit(f'{error}: nothing to compare with. `make compiled-ops` compiles it.')

import mmcv.ops as ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

from repvit_dense.compat import mmcv_ops

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def load_fallback():
    module = module_from_spec(ModuleSpec(mmcv_ops.EXTENSION, mmcv_ops.Finder()))
    module.__loader__.exec_module(module)
    return module


def use(extension):
    """Let mmcv's public functions call this extension."""
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            module.ext_module = extension


def random(*shape, low=-1.0, high=1.0):
    return (torch.rand(shape) * (high - low) + low).to(DEVICE)


def boxes(n, size=200):
    corner = random(n, 2, low=0, high=size)
    return torch.cat((corner, corner + random(n, 2, low=1, high=size / 2)), dim=1)


def box_cases():
    """Yield the name of each op without a gradient, and a call without arguments."""
    many, scores = boxes(2000), random(2000, low=0)
    rounded = (scores * 20).round() / 20  # ties
    for offset in (0, 1):
        yield f'nms, offset {offset}', lambda o=offset: ops.nms(many, scores, 0.5, offset=o)
        for method in ('naive', 'linear', 'gaussian'):
            for values, kind in ((scores, ''), (rounded, ', equal scores')):
                yield (
                    f'soft_nms {method}, offset {offset}{kind}',
                    lambda o=offset, m=method, v=values: ops.soft_nms(many[:500], v[:500], method=m, offset=o),
                )
        for mode in ('iou', 'iof'):
            for aligned in (False, True):
                yield (
                    f'bbox_overlaps {mode}{", aligned" * aligned}, offset {offset}',
                    lambda o=offset, m=mode, a=aligned: [ops.bbox_overlaps(many[:300], many[300:600], m, a, o)],
                )
    yield 'nms_match', lambda: ops.nms_match(torch.cat((many[:500], scores[:500, None]), dim=1), 0.5)


def roi_cases():
    """Yield name, function and differentiable inputs of the pooling ops."""
    features = random(2, 8, 50, 60)
    rois = torch.cat((torch.arange(100, device=DEVICE)[:, None] % 2, boxes(100) - 20), dim=1)
    for mode in ('avg', 'max'):
        for ratio in (0, 2):
            for aligned in (True, False):
                yield (
                    f'roi_align {mode}, sampling ratio {ratio}{", aligned" * aligned}',
                    lambda x, m=mode, r=ratio, a=aligned: ops.roi_align(x, rois, 7, 0.25, r, m, a),
                    [features],
                )
    yield 'roi_pool', lambda x: ops.roi_pool(x, rois, 7, 0.25), [features]


def deform_cases():
    features, weight, bias = random(2, 8, 20, 22), random(6, 4, 3, 3), random(6)
    offset, mask = random(2, 36, 20, 22, low=-3, high=3), random(2, 18, 20, 22, low=0)
    geometry = (1, 2, 2, 2, 2)  # stride, padding, dilation, groups, deformable groups
    yield 'deform_conv', lambda *t: ops.deform_conv2d(*t, *geometry), [features, offset, weight]
    inputs = [features, offset, mask, weight, bias]
    yield 'modulated_deform_conv', lambda *t: ops.modulated_deform_conv2d(*t, *geometry), inputs
    yield 'modulated_deform_conv, no bias', lambda *t: ops.modulated_deform_conv2d(*t, None, *geometry), inputs[:4]

    shapes = torch.tensor([[20, 22], [10, 11]], device=DEVICE)
    starts = torch.tensor([0, 440], device=DEVICE)
    inputs = [random(2, 550, 4, 8), random(2, 30, 4, 2, 4, 2, low=-0.1, high=1.1), random(2, 30, 4, 2, 4, low=0)]
    yield (
        'ms_deform_attn',
        lambda value, *t: MultiScaleDeformableAttnFunction.apply(value, shapes, starts, *t, 64),
        inputs,
    )


def loss_cases():
    logits, weight = random(50, 10, low=-5, high=5), random(10, low=0)
    target = torch.randint(10, (50,), device=DEVICE)
    background, ignored = target.where(target > 2, 10), target.where(target > 2, -1)
    for name, loss, labels in (
        ('sigmoid_focal_loss', ops.sigmoid_focal_loss, target),
        ('sigmoid_focal_loss, background', ops.sigmoid_focal_loss, background),
        ('softmax_focal_loss', ops.softmax_focal_loss, target),
        ('softmax_focal_loss, ignored targets', ops.softmax_focal_loss, ignored),
    ):
        # If a target is not a class, mmcv reads a weight out of bounds.
        class_weight = weight if labels is target else None
        yield name, lambda x, f=loss, t=labels, w=class_weight: f(x, t, 2.0, 0.25, w, 'sum'), [logits]


def with_gradients(function, inputs):
    inputs = [t.clone().requires_grad_() for t in inputs]
    torch.manual_seed(1)
    output = function(*inputs)
    gradients = torch.autograd.grad(output, inputs, torch.rand_like(output))
    return [output.detach()], list(gradients)


def largest(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def in_both(fallback, call):
    """Return the results of the fallback and of the compiled op, None without a compiled kernel for the device."""
    use(fallback)
    ours = call()
    use(compiled)
    try:
        return ours, call()
    except RuntimeError as error:
        if 'not found' not in str(error) and 'not compiled' not in str(error).lower():
            raise
        return ours, None


def largest_differences():
    """Return rows of (op, forward, backward): a difference, the reason for its absence, or None without a gradient."""
    fallback, rows = load_fallback(), []
    for name, call in box_cases():
        ours, theirs = in_both(fallback, call)
        same = theirs is not None and all(
            a.shape == b.shape and (a.is_floating_point() or torch.equal(a, b))
            for a, b in zip(ours, theirs, strict=True)
        )
        rows.append((name, largest(ours, theirs) if same else 'differs' if theirs else 'not compiled', None))
    for cases in (roi_cases, deform_cases, loss_cases):
        for name, function, inputs in cases():
            ours, theirs = in_both(fallback, lambda f=function, i=inputs: with_gradients(f, i))
            differences = (
                [largest(*pair) for pair in zip(ours, theirs, strict=True)] if theirs else ['not compiled'] * 2
            )
            rows.append((name, *differences))
    return rows


def main():
    torch.manual_seed(0)
    rows = largest_differences()
    print(f'largest absolute difference, float32, {DEVICE}\n{"":45}  {"forward":>12}  {"backward":>12}')
    for name, *differences in rows:
        cells = (d if isinstance(d, str) else '' if d is None else f'{d:.1e}' for d in differences)
        print(f'{name:45}', *(f'{cell:>12}' for cell in cells), sep='  ')
    return int(any(row[1] == 'differs' for row in rows))


if __name__ == '__main__':
    sys.exit(main())
