"""ExecuTorch files, run by its runtime."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repvit_dense.exporting.graphs.base import Graph

pytestmark = pytest.mark.deploy
pytest.importorskip('executorch')


class Shared(Graph):
    """A graph that applies the same layers to two levels, between operators that XNNPACK does not support."""

    task = 'semantic'

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)), plain=True)

    def forward(self, images, img_hw):
        first, shared = self.model
        fine = first(images)
        order = shared(fine).mean((2, 3)).topk(64).indices
        levels = shared(fine), shared(fine[:, :, ::2, ::2]).repeat_interleave(2, 2).repeat_interleave(2, 3)
        again = shared(sum(levels).gather(1, order[..., None, None].expand_as(fine)))
        return ((again.argmax(1) % 7).int(),)


class Rearranged(Graph):
    """A graph of reshapes, an expansion to the same shape and permuted weights between operators of XNNPACK."""

    task = 'semantic'

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), plain=True)

    def forward(self, images, img_hw):
        features = self.model(images)
        features = features * features.mean((2, 3), keepdim=True).sigmoid()
        mixed = (features @ features.transpose(2, 3)).flatten(2)[..., None] * features[:, -1, None, None, 0]
        features = features + mixed[:, :, : features.shape[2], :]
        again = F.conv2d(features[:, :3], self.model.weight.flip(2).transpose(2, 3), self.model.bias, padding=1)
        return (again.argmax(1).int(),)


@pytest.fixture
def run():
    """Return `run(path, inputs)`, which runs a file in the ExecuTorch runtime."""
    from executorch.runtime import Runtime

    def call(path, inputs):
        program = Runtime.get().load_program(path)
        method = program.load_method('forward')
        return [value.clone() for value in method.execute(inputs[: method.metadata.num_inputs()])]

    return call


@pytest.mark.parametrize('kind', ['semantic', 'detection'])
@pytest.mark.parametrize('number', [1, 2])
def test_the_runtime_agrees_with_torch(graph, write, batch, close, run, kind, number):
    model, inputs = graph(kind, plain=True), batch(number)
    close(model, inputs, run(write(model, 'executorch', batch=number), inputs))


def test_convolutions_run_in_xnnpack(graph, write):
    content = write(graph('semantic', plain=True), 'executorch').read_bytes()
    assert b'XnnpackBackend' in content
    assert b'aten::convolution' not in content


def test_reshapes_do_not_leave_xnnpack(write, batch, close, run):
    model, inputs = Rearranged(), batch()
    path = write(model, 'executorch')
    close(model, inputs, run(path, inputs))
    content = path.read_bytes()
    for name in ('convolution', 'unsqueeze_copy', 'select_copy', 'expand_copy', 'mean', 'bmm', 'flip'):
        assert f'aten::{name}'.encode() not in content


class Scalars(nn.Module):
    """A module that combines integer scalars with float tensors and with an integer tensor."""

    def forward(self, values, indices):
        total = sum([1 - values, values * 2, values - 3])
        return total, indices + 0, values + 0


def test_integer_scalars_become_floats_beside_float_tensors():
    from repvit_dense.exporting.formats.executorch import simplify_scalars

    inputs = torch.rand(2, 3), torch.arange(3)
    program = torch.export.export(Scalars(), inputs).run_decompositions({})
    simplify_scalars(program)
    program.graph.lint()
    program.graph_module.recompile()
    for output, expected in zip(program.module()(*inputs), Scalars()(*inputs), strict=True):
        torch.testing.assert_close(output, expected)
    scalars = [arg for node in program.graph.nodes for arg in node.args if isinstance(arg, int | float)]
    assert [(type(scalar), scalar) for scalar in scalars] == [
        *[(float, number) for number in (1, 2, 3)],
        *[(int, 0), (float, 0)],  # beside an integer tensor; and an output of the program, which keeps its name
    ]


@pytest.mark.parametrize('computed', [False, True])
def test_an_operator_is_preserved_if_xnnpack_supports_all_its_uses(computed):
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    from repvit_dense.exporting.formats.executorch import preserved_operators

    class Linear(nn.Linear):
        def forward(self, values):
            return F.linear(super().forward(values), values[:3] if computed else self.weight)

    program = torch.export.export(Linear(3, 3), (torch.rand(4, 3),)).run_decompositions({})
    preserved = preserved_operators(program, XnnpackPartitioner())
    assert preserved == ([] if computed else [torch.ops.aten.linear.default])


def test_shared_weights_are_stored_once(write, batch, close, run):
    model, inputs = Shared(), batch()
    path = write(model, 'executorch')
    close(model, inputs, run(path, inputs))
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    assert weights < path.stat().st_size < 1.5 * weights


def test_the_compiler_need_not_be_on_the_path(graph, write, monkeypatch):
    monkeypatch.setenv('PATH', '')
    monkeypatch.delenv('FLATC_EXECUTABLE', raising=False)
    assert write(graph('semantic', plain=True), 'executorch').is_file()


# Config -> layers to randomise, and options. One head has separate batch norms per level, the other has two stages.
DETECTORS = {
    'repvit_rtmdet-ins_coco': ('bbox_head.rtm_cls', ['model.test_cfg.nms_pre=60', 'model.test_cfg.max_per_img=20']),
    'repvit_maskrcnn_coco': (
        'roi_head.bbox_head.fc_cls',
        [
            'model.test_cfg.rpn.nms_pre=60',
            'model.test_cfg.rpn.max_per_img=40',
            'model.test_cfg.rcnn.max_per_img=20',
            'model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio=2',
            'model.roi_head.mask_roi_extractor.roi_layer.sampling_ratio=2',
        ],
    ),
}


@pytest.fixture
def detector():
    """Return `detector(name)`, which builds the plain graph of a fused detector with random weights and detections."""
    from repvit_dense import config
    from repvit_dense.exporting import folding, graphs
    from repvit_dense.model import build_model

    @torch.no_grad()
    def build(name):
        torch.manual_seed(0)
        layer, options = DETECTORS[name]
        model = build_model(config.load(name, options=options, backbone='repvit_m0_6')).requires_grad_(False)
        for path, module in model.named_modules():
            if path.startswith(layer) and hasattr(module, 'weight'):
                module.weight.normal_(std=0.1)
                module.bias.normal_(-1)
        return graphs.build(folding.fuse(model), plain=True)

    return build


@pytest.mark.parametrize('name', DETECTORS)
def test_detections_agree_with_torch(detector, write, batch, run, name):
    from repvit_dense.exporting.agreement import TOLERANCES, compare_outputs, find_failures

    graph, inputs = detector(name), batch(1, 96, 128)
    outputs = run(write(graph, 'executorch', (96, 128)), inputs)
    with torch.no_grad():
        both = [{n: np.asarray(v) for n, v in zip(graph.outputs, vs, strict=True)} for vs in (graph(*inputs), outputs)]
    tolerance = TOLERANCES['fp32']
    differences, agreement = compare_outputs(graph.task, [both], tolerance)
    assert agreement['detections'] > 5
    assert find_failures(differences, agreement, tolerance) == []
