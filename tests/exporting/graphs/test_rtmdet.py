"""RTMDet-Ins as a graph, compared with the predictions of mmdet on the unfused model."""

import pytest
import torch

NAME = 'repvit_rtmdet-ins_coco'
OPTIONS = ('model.test_cfg.nms_pre=150', 'model.test_cfg.max_per_img=30')


@pytest.mark.parametrize('plain', [False, True])
@pytest.mark.parametrize('sizes', [[(96, 128)], [(71, 93), (128, 40)], [(33, 129)]])
def test_detections_agree_with_mmdet(detector, build_graph, make_batch, agreement, plain, sizes):
    model = detector(NAME, *OPTIONS)
    images, img_hw = make_batch(sizes, seed=3)
    outputs, share = agreement(model, build_graph(model, plain), images, img_hw)
    assert share >= 0.98
    assert (outputs['count'] > 15).all()
    assert outputs['masks'].shape == (len(sizes), 30, images.shape[2] // 8, images.shape[3] // 8)


@torch.inference_mode()
def test_masks_agree_with_mmdet(detector, build_graph, make_batch):
    model = detector(NAME, *OPTIONS)
    graph, head = build_graph(model), model.bbox_head
    features = torch.randn(2, head.num_prototypes, 12, 16)
    kernels = torch.randn(2, 7, head.num_gen_params)
    points = torch.cat((128 * torch.rand(2, 7, 2), torch.tensor([8.0, 16, 32])[torch.randint(3, (2, 7, 1))]), dim=2)
    points = torch.cat((points, points[..., 2:]), dim=2)
    masks = graph._masks(features, kernels, points)
    for i in range(2):
        expected = head._mask_predict_by_feat_single(features[i], kernels[i], points[i])
        assert expected.std() > 0.1
        torch.testing.assert_close(masks[i], expected, atol=1e-6 * expected.abs().max().item(), rtol=0)


@torch.inference_mode()
def test_masks_belong_to_their_boxes(detector, build_graph, make_batch, samples):
    """Compare full-size masks of the detections that have exactly one partner."""
    model = detector(NAME, *OPTIONS)
    images, img_hw = make_batch([(96, 128)], seed=3)
    graph = build_graph(model)
    outputs = dict(zip(graph.outputs, graph(images, img_hw), strict=True))
    reference = model.predict(images, samples(images, img_hw), rescale=True)[0].pred_instances
    logits = torch.nn.functional.interpolate(outputs['masks'], scale_factor=8, mode='bilinear')[0]
    compared = 0
    for box, score, mask in zip(outputs['boxes'][0], outputs['scores'][0], logits > 0, strict=True):
        partners = (reference.bboxes - box).abs().amax(1) + (reference.scores - score).abs() * 100 < 0.1
        if partners.sum() == 1:
            expected = reference.masks[partners][0]
            assert (mask[: img_hw[0, 0].int(), : img_hw[0, 1].int()] == expected).float().mean() > 0.999
            compared += 1
    assert compared > 10


@pytest.mark.parametrize('plain', [False, True])
def test_no_detections(detector, build_graph, make_batch, plain):
    graph = build_graph(detector(NAME, *OPTIONS), plain)
    graph.cfg['score_thr'] = 1.0
    with torch.inference_mode():
        assert all((output == 0).all() for output in graph(*make_batch([(64, 96)])))


@pytest.mark.deploy
def test_onnx_runtime_at_other_sizes(detector, build_graph, make_batch, matched, run_onnx):
    graph = build_graph(detector(NAME, *OPTIONS))
    run = run_onnx(graph, make_batch([(96, 128), (80, 90)]), dynamic=True)
    for sizes in ([(96, 128)], [(150, 100), (160, 70), (33, 90)]):
        batch = make_batch(sizes, seed=4)
        with torch.inference_mode():
            expected = dict(zip(graph.outputs, graph(*batch), strict=True))
        outputs = dict(zip(graph.outputs, run(*batch), strict=True))
        assert torch.equal(outputs['count'], expected['count'])
        for i, count in enumerate(expected['count']):
            one, two = (
                {key: values[key][i, :count] for key in ('boxes', 'scores', 'labels')} for values in (outputs, expected)
            )
            assert matched(one, two) >= 0.98
            same = ((one['boxes'] - two['boxes']).abs().amax(1) < 0.1) & (one['labels'] == two['labels'])
            difference = (outputs['masks'][i, :count] - expected['masks'][i, :count]).abs().amax((1, 2))[same]
            assert (difference < 1e-3 * expected['masks'].abs().max()).float().mean() >= 0.98


@pytest.mark.deploy
def test_the_plain_graph_can_be_exported(detector, build_graph, make_batch, export_plain):
    graph, batch = build_graph(detector(NAME, *OPTIONS), plain=True), make_batch([(96, 128)])
    with torch.inference_mode():
        for output, expected in zip(export_plain(graph, batch)(*batch), graph(*batch), strict=True):
            torch.testing.assert_close(output, expected, atol=1e-3, rtol=1e-4)
