import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repvit_dense.exporting.graphs.base import Graph

pytestmark = pytest.mark.deploy
pytest.importorskip('executorch')


class Shared(Graph):
    """The same layers on two levels, in turn with an operation that XNNPACK does not take."""

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
    """Between what XNNPACK takes: axes that come and go, an expansion to the same shape, weights in another order."""

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
    """`run(path, inputs)`: what its own runtime gives."""
    from executorch.runtime import Runtime

    def call(path, inputs):
        program = Runtime.get().load_program(path)
        method = program.load_method('forward')
        return [value.clone() for value in method.execute(inputs[: method.metadata.num_inputs()])]

    return call


@pytest.mark.parametrize('kind', ['semantic', 'detection'])
@pytest.mark.parametrize('number', [1, 2])
def test_its_own_runtime_gives_what_torch_gives(graph, write, batch, close, run, kind, number):
    model, inputs = graph(kind, plain=True), batch(number)
    close(model, inputs, run(write(model, 'executorch', batch=number), inputs))


def test_convolutions_go_to_xnnpack(graph, write):
    content = write(graph('semantic', plain=True), 'executorch').read_bytes()
    assert b'XnnpackBackend' in content
    assert b'aten::convolution' not in content


def test_what_moves_no_number_stays_in_xnnpack(write, batch, close, run):
    model, inputs = Rearranged(), batch()
    path = write(model, 'executorch')
    close(model, inputs, run(path, inputs))
    content = path.read_bytes()
    for name in ('convolution', 'unsqueeze_copy', 'select_copy', 'expand_copy', 'mean', 'bmm', 'flip'):
        assert f'aten::{name}'.encode() not in content


class Numbers(nn.Module):
    """Whole numbers in sums and products with floats, and with integers."""

    def forward(self, values, places):
        total = sum([1 - values, values * 2, values - 3])
        return total, places + 0, values + 0


def test_whole_numbers_that_meet_floats_are_floats():
    from repvit_dense.exporting.formats.executorch import simplify_scalars

    inputs = torch.rand(2, 3), torch.arange(3)
    program = torch.export.export(Numbers(), inputs).run_decompositions({})
    simplify_scalars(program)
    program.graph.lint()
    program.graph_module.recompile()
    for found, expected in zip(program.module()(*inputs), Numbers()(*inputs), strict=True):
        torch.testing.assert_close(found, expected)
    scalars = [arg for node in program.graph.nodes for arg in node.args if isinstance(arg, int | float)]
    assert [(type(scalar), scalar) for scalar in scalars] == [
        *[(float, number) for number in (1, 2, 3)],
        *[(int, 0), (float, 0)],  # of integers; an answer, which keeps its name
    ]


@pytest.mark.parametrize('computed', [False, True])
def test_an_operator_is_kept_whole_where_xnnpack_takes_all_its_uses(computed):
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    from repvit_dense.exporting.formats.executorch import kept_whole

    class Linear(nn.Linear):
        def forward(self, values):
            return F.linear(super().forward(values), values[:3] if computed else self.weight)

    program = torch.export.export(Linear(3, 3), (torch.rand(4, 3),)).run_decompositions({})
    kept = kept_whole(program, XnnpackPartitioner())
    assert kept == ([] if computed else [torch.ops.aten.linear.default])


def test_layers_used_again_and_again_are_kept_once(write, batch, close, run):
    model, inputs = Shared(), batch()
    path = write(model, 'executorch')
    close(model, inputs, run(path, inputs))
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    assert weights < path.stat().st_size < 1.5 * weights


def test_the_path_need_not_hold_its_tools(graph, write, monkeypatch):
    monkeypatch.setenv('PATH', '')
    monkeypatch.delenv('FLATC_EXECUTABLE', raising=False)
    assert write(graph('semantic', plain=True), 'executorch').is_file()


# Heads on several levels, with batch norms of their own and without; two stages.
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
    """`detector(name)`: the plain graph of a fused detector that finds something, with random weights."""
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
def test_detectors_find_what_torch_finds(detector, write, batch, run, name):
    from repvit_dense.exporting import certify

    graph, inputs = detector(name), batch(1, 96, 128)
    found = run(write(graph, 'executorch', (96, 128)), inputs)
    with torch.no_grad():
        both = [{n: np.asarray(v) for n, v in zip(graph.outputs, vs, strict=True)} for vs in (graph(*inputs), found)]
    tolerance = certify.TOLERANCES['fp32']
    outputs, agreement = certify.compare(graph.task, [both], tolerance)
    assert agreement['detections'] > 5
    assert certify._failures(outputs, agreement, tolerance) == []
