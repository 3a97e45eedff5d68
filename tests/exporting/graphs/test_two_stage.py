"""Mask R-CNN and Cascade Mask R-CNN as graphs, compared with the predictions of mmdet on the unfused model."""

import pytest
import torch

from repvit_dense.errors import InputError

NAMES = ('repvit_maskrcnn_coco', 'repvit_cascade-maskrcnn_coco')
SMALL = ('model.test_cfg.rpn.nms_pre=80', 'model.test_cfg.rpn.max_per_img=60', 'model.test_cfg.rcnn.max_per_img=20')
FIXED = tuple(f'model.roi_head.{part}_roi_extractor.roi_layer.sampling_ratio=2' for part in ('bbox', 'mask'))
names = pytest.mark.parametrize('name', NAMES)


@names
@pytest.mark.parametrize(('plain', 'options'), [(False, ()), (True, FIXED)])
@pytest.mark.parametrize('sizes', [[(96, 128)], [(71, 93), (128, 40)], [(33, 129)]])
def test_detections_agree_with_mmdet(detector, build_graph, make_batch, agreement, name, plain, options, sizes):
    model = detector(name, *SMALL, *options)
    outputs, share = agreement(model, build_graph(model, plain), *make_batch(sizes, seed=3))
    assert share >= 0.95  # of 20 detections
    assert (outputs['count'] > 10).all()
    assert outputs['masks'].shape == (len(sizes), 20, 28, 28)


@names
@pytest.mark.parametrize(('plain', 'options'), [(False, ()), (True, FIXED)])
@torch.inference_mode()
def test_masks_agree_with_mmdet(detector, build_graph, make_batch, name, plain, options):
    from mmdet.structures.bbox import bbox2roi

    model = detector(name, *SMALL, *options)
    graph, (images, img_hw) = build_graph(model, plain), make_batch([(71, 93), (128, 40)], seed=3)
    boxes, scores, labels, masks, count = graph(images, img_hw)
    features, rois, head = model.extract_feat(images), bbox2roi(list(boxes)), model.roi_head
    stages = [(i,) for i in range(head.num_stages)] if 'cascade' in name else [()]
    expected = [head._mask_forward(*stage, features, rois)['mask_preds'].sigmoid() for stage in stages]
    expected = (sum(expected) / len(expected))[torch.arange(len(rois)), labels.flatten().long()]
    expected = expected.view_as(masks) * (scores > 0)[..., None, None]
    assert expected.std() > 0.1
    torch.testing.assert_close(masks, expected, atol=1e-3, rtol=0)


@names
@pytest.mark.parametrize(('plain', 'options'), [(False, ()), (True, FIXED)])
def test_no_detections(detector, build_graph, make_batch, name, plain, options):
    graph = build_graph(detector(name, *SMALL, *options), plain)
    graph.cfg['score_thr'] = 1.0
    with torch.inference_mode():
        assert all((output == 0).all() for output in graph(*make_batch([(64, 96)])))


def test_no_proposals(detector, build_graph, make_batch):
    graph = build_graph(detector(NAMES[0], *SMALL))
    graph.model.rpn_head.test_cfg['min_bbox_size'] = 1000
    with torch.inference_mode():
        assert all((output == 0).all() for output in graph(*make_batch([(64, 96)])))


def test_adaptive_sampling_is_refused_for_plain_graphs(detector, build_graph):
    with pytest.raises(InputError, match='sampling_ratio=2'):
        build_graph(detector(NAMES[0], *SMALL), plain=True)


@names
@pytest.mark.deploy
def test_onnx_runtime_at_other_sizes(detector, build_graph, make_batch, matched, run_onnx, name):
    graph = build_graph(detector(name, *SMALL))
    run = run_onnx(graph, make_batch([(96, 128), (80, 90)]), dynamic=True)
    for sizes in ([(96, 128)], [(150, 100), (160, 70), (33, 90)]):
        images, img_hw = make_batch(sizes, seed=4)
        images[-1] = 0
        with torch.inference_mode():
            expected = dict(zip(graph.outputs, graph(images, img_hw), strict=True))
        outputs = dict(zip(graph.outputs, run(images, img_hw), strict=True))
        assert torch.equal(outputs['count'], expected['count'])
        for i, count in enumerate(expected['count']):
            one, two = (
                {key: values[key][i, :count] for key in ('boxes', 'scores', 'labels')} for values in (outputs, expected)
            )
            assert matched(one, two) >= 0.95 - 1e-6  # the share is float32
            same = ((one['boxes'] - two['boxes']).abs().amax(1) < 0.1) & (one['labels'] == two['labels'])
            difference = (outputs['masks'][i, :count] - expected['masks'][i, :count]).abs().amax((1, 2))[same]
            assert (difference < 1e-3).float().mean() >= 0.95


@pytest.mark.deploy
def test_no_detections_in_onnx_runtime(detector, build_graph, make_batch, run_onnx):
    graph = build_graph(detector(NAMES[0], *SMALL))
    graph.cfg['score_thr'] = 1.0
    batch = make_batch([(64, 96)])
    assert all((output == 0).all() for output in run_onnx(graph, batch)(*batch))


@names
@pytest.mark.deploy
def test_the_plain_graph_can_be_exported(detector, build_graph, make_batch, export_plain, name):
    graph, batch = build_graph(detector(name, *SMALL, *FIXED), plain=True), make_batch([(96, 128)])
    with torch.inference_mode():
        for output, expected in zip(export_plain(graph, batch)(*batch), graph(*batch), strict=True):
            torch.testing.assert_close(output, expected, atol=1e-3, rtol=1e-4)
