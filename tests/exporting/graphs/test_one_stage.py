"""RetinaNet, SSDLite and RTMDet as graphs, compared with the predictions of mmdet on the unfused model."""

import pytest
import torch

from repvit_dense.exporting import sizes as input_sizes

MODELS = {
    'repvit_retinanet_coco': ('model.test_cfg.nms_pre=150', 'model.test_cfg.max_per_img=50'),
    'repvit_ssdlite_coco': ('model.test_cfg.nms_pre=150', 'model.test_cfg.max_per_img=50'),
    'repvit_rtmdet_bccd': ('model.test_cfg.nms_pre=150', 'model.test_cfg.max_per_img=50'),
}
names = pytest.mark.parametrize('name', MODELS)


@names
@pytest.mark.parametrize('plain', [False, True])
@pytest.mark.parametrize('sizes', [[(96, 128)], [(71, 93), (128, 40)], [(33, 129)]])
def test_detections_agree_with_mmdet(detector, build_graph, make_batch, agreement, name, plain, sizes):
    model = detector(name, *MODELS[name])
    outputs, share = agreement(model, build_graph(model, plain), *make_batch(sizes, seed=3))
    assert share >= 0.98
    assert (outputs['count'] > 20).all()
    assert outputs['labels'].dtype == outputs['count'].dtype == torch.int32


@names
@pytest.mark.parametrize('plain', [False, True])
def test_no_detections(detector, build_graph, make_batch, name, plain):
    graph = build_graph(detector(name, *MODELS[name]), plain)
    graph.cfg['score_thr'] = 1.0
    with torch.inference_mode():
        assert all((output == 0).all() for output in graph(*make_batch([(64, 96)])))


@names
@pytest.mark.deploy
def test_onnx_runtime_at_other_sizes(detector, build_graph, make_batch, matched, run_onnx, name):
    model = detector(name, *MODELS[name])
    graph = build_graph(model)
    smallest = input_sizes.smallest_dynamic_side(input_sizes.coarsest_stride(model.cfg), graph.divisor)
    run = run_onnx(graph, make_batch([(smallest, smallest + 32), (90, 70)]), dynamic=True)
    # At 230x140, scores of this random network tie at the limit of 150 per level.
    for sizes in ([(96, 128)], [(150, 100), (160, 70), (33, 90)], [(230, 230)]):
        batch = make_batch(sizes, seed=4)
        with torch.inference_mode():
            expected = graph(*batch)
        outputs = run(*batch)
        assert torch.equal(outputs[3], expected[3])
        for i, count in enumerate(expected[3]):
            pair = (
                dict(zip(('boxes', 'scores', 'labels'), (value[i, :count] for value in values), strict=False))
                for values in (outputs, expected)
            )
            assert matched(*pair) >= 0.98


@names
@pytest.mark.deploy
def test_the_plain_graph_can_be_exported(detector, build_graph, make_batch, export_plain, name):
    graph, batch = build_graph(detector(name, *MODELS[name]), plain=True), make_batch([(96, 128)])
    with torch.inference_mode():
        for output, expected in zip(export_plain(graph, batch)(*batch), graph(*batch), strict=True):
            torch.testing.assert_close(output, expected, atol=1e-3, rtol=1e-4)
