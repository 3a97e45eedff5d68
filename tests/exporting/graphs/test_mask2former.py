"""Mask2Former as a graph, compared with the predictions of mmdet and mmseg.

Steps at the original image size (resizing of masks, boxes and scores from masks, merging of segments) are done here in
torch; for an artifact, the predictor does them in NumPy.
"""

import pytest
import torch
from torch.nn import functional as F

INSTANCES = ['panoptic_on=False', 'instance_on=True', 'max_per_image=40']
THIN = ['feat_channels=64', 'out_channels=64', 'num_queries=25', 'num_classes=12']
THIN += ['pixel_decoder.encoder.num_layers=1', 'transformer_decoder.num_layers=3', 'loss_cls.class_weight=[1.0]']
THIN += [f'pixel_decoder.encoder.layer_cfg.{part}.embed_dims=64' for part in ('self_attn_cfg', 'ffn_cfg')]
THIN += [
    f'transformer_decoder.layer_cfg.{part}.embed_dims=64' for part in ('self_attn_cfg', 'cross_attn_cfg', 'ffn_cfg')
]
THIN += ['pixel_decoder.positional_encoding.num_feats=32', 'positional_encoding.num_feats=32']
# Image sizes in the network, and before resizing.
BATCHES = [([(96, 128)], [(120, 160)]), ([(71, 61), (96, 128)], [(142, 122), (96, 128)]), ([(33, 1)], [(33, 1)])]


@pytest.fixture(scope='module')
def prepare(build_model, rescale, make_batch, samples):
    def build(*options):
        model = build_model('repvit_mask2former_shapes-panoptic', *(f'model.test_cfg.{option}' for option in options))
        images, img_hw = make_batch([(71, 61), (96, 128)])
        data_samples, head = samples(images, img_hw), model.panoptic_head
        gains = {head.cls_embed: 2, head.pixel_decoder.mask_feature: 1, head.mask_embed[-1]: 0.3}
        rescale(lambda inputs: model.predict(inputs, data_samples), images, gains)
        return model

    return build


@pytest.fixture(scope='module')
def panoptic(prepare):
    return prepare('object_mask_thr=0.4', 'iou_thr=0.3', 'filter_low_score=True')


@pytest.fixture(scope='module')
def instance(prepare):
    return prepare(*INSTANCES)


@pytest.fixture(scope='module')
def semantic(build_model, rescale, make_batch):
    model = build_model('repvit_mask2former_ade20k', *(f'model.decode_head.{option}' for option in THIN))
    head = model.decode_head
    gains = {head.cls_embed: 4, head.pixel_decoder.mask_feature: 1, head.mask_embed[-1]: 0.3}
    rescale(model.predict, make_batch([(96, 64), (61, 90)])[0], gains)
    return model


@pytest.fixture(scope='module')
def original():
    """Return `original(masks, batch_hw, img_hw, before)`, which resizes logits to the original image like mmdet."""

    def resize(masks, batch_hw, img_hw, before):
        masks = F.interpolate(masks[None], size=batch_hw, mode='bilinear')
        masks = masks[..., : int(img_hw[0]), : int(img_hw[1])]
        return F.interpolate(masks, size=before, mode='bilinear')[0]

    return resize


def outputs(graph, images, img_hw):
    return dict(zip(graph.outputs, graph(images, img_hw), strict=True))


@pytest.mark.parametrize(('sizes', 'before'), BATCHES, ids=str)
def test_queries_agree_with_mmdet(panoptic, build_graph, make_batch, samples, sizes, before):
    """Allow for pixels that rounding flips in an attention mask, which change all later layers."""
    images, img_hw = make_batch(sizes)
    head = panoptic.panoptic_head
    classes, expected = head.predict(panoptic.extract_feat(images), samples(images, img_hw))
    graph = build_graph(panoptic)
    from repvit_dense.exporting.graphs.mask2former import masks

    logits, embedding, pixels = graph.queries(graph.model.extract_feat(images))
    logits_of_masks = F.interpolate(masks(embedding, pixels), size=images.shape[2:], mode='bilinear')
    torch.testing.assert_close(logits, classes, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits_of_masks, expected, rtol=1e-3, atol=1e-3)
    partial = (expected > 0).float().mean((2, 3)) % 1 > 0  # masks that are neither empty nor full
    assert partial.float().mean() > 0.5


@pytest.mark.parametrize('plain', [False, True], ids=['operators', 'plain'])
@pytest.mark.parametrize(('sizes', 'before'), BATCHES, ids=str)
def test_instances_agree_with_mmdet(
    instance, build_graph, make_batch, samples, matched, original, sizes, before, plain
):
    from mmdet.structures.mask import mask2bbox

    images, img_hw = make_batch(sizes)
    result = outputs(build_graph(instance, plain), images, img_hw)
    assert result['scores'].diff(dim=1).max() <= 0
    for i, sample in enumerate(instance.predict(images, samples(images, img_hw, before))):
        count, expected = int(result['count'][i]), sample.pred_instances
        assert count == len(expected) > 10
        masks = original(result['masks'][i, :count], images.shape[2:], sizes[i], before[i])
        inside = masks > 0
        quality = (masks.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
        instances = {'scores': result['scores'][i, :count] * quality, 'labels': result['labels'][i, :count]}
        others = {'scores': expected.scores, 'labels': expected.labels, 'boxes': expected.bboxes}
        assert matched({**instances, 'boxes': mask2bbox(inside)}, others, box=1.5) > 0.95
        overlap = (inside[:, None] & expected.masks[None]).sum((2, 3)) / (inside[:, None] | expected.masks).sum((2, 3))
        same_class = instances['labels'][:, None] == expected.labels
        empty = ~expected.masks.any(-1).any(-1)
        assert ((((overlap > 0.99) & same_class).any(0)) | empty).float().mean() > 0.95


def test_boxes_of_coarse_masks_are_exact_to_one_mask_pixel(instance, build_graph, make_batch, samples):
    images, img_hw = make_batch([(96, 128), (96, 128)])
    result = outputs(build_graph(instance), images, img_hw)
    for i, sample in enumerate(instance.predict(images, samples(images, img_hw), rescale=False)):
        count, expected = int(result['count'][i]), sample.pred_instances
        difference = (result['boxes'][i, :count, None] - expected.bboxes).abs().amax(2)
        difference[result['labels'][i, :count, None] != expected.labels] = 1e3
        assert (difference.amin(1) <= 4).float().mean() > 0.95


def test_stuff_is_not_an_instance(prepare, build_graph, make_batch):
    result = outputs(build_graph(prepare(*INSTANCES)), *make_batch([(64, 64)]))
    count = int(result['count'])
    assert 0 < count < 40
    assert result['labels'].max() < 8
    assert result['scores'][0, :count].min() > 0
    for name in ('scores', 'labels', 'boxes', 'masks'):
        assert not result[name][0, count:].any()


@pytest.mark.parametrize('plain', [False, True], ids=['operators', 'plain'])
@pytest.mark.parametrize(('sizes', 'before'), BATCHES, ids=str)
def test_panoptic_segments_agree_with_mmdet(panoptic, build_graph, make_batch, samples, original, sizes, before, plain):
    """Merge the selected queries with mmdet's own function, given class probabilities with the same scores."""
    images, img_hw = make_batch(sizes)
    result = outputs(build_graph(panoptic, plain), images, img_hw)
    for i, sample in enumerate(panoptic.predict(images, samples(images, img_hw, before))):
        count, expected = int(result['count'][i]), sample.pred_panoptic_seg.sem_seg[0]
        masks = original(result['masks'][i, :count], images.shape[2:], sizes[i], before[i])
        scores = result['scores'][i, :count, None]
        classes = ((1 - scores) / 12).repeat(1, 13).scatter(1, result['labels'][i, :count, None].long(), scores).log()
        segments = panoptic.panoptic_fusion_head.panoptic_postprocess(classes, masks).sem_seg[0]
        pairs, pixels = torch.stack((segments, expected)).flatten(1).unique(dim=1, return_counts=True)
        large = pairs[:, pixels > 0.002 * expected.numel()]
        assert (segments % 1000 == expected % 1000).float().mean() > 0.995
        assert all(len(side.unique()) == large.shape[1] for side in large)  # same segments, other numbers
    assert count > 3


def test_no_segments_above_the_threshold(prepare, build_graph, make_batch):
    result = outputs(build_graph(prepare('object_mask_thr=0.9999')), *make_batch([(64, 64), (33, 50)]))
    assert result['count'].tolist() == [0, 0]
    assert not any(value.any() for value in result.values())


@pytest.mark.parametrize('plain', [False, True], ids=['operators', 'plain'])
@pytest.mark.parametrize(('sizes', 'before'), BATCHES, ids=str)
def test_classes_agree_with_mmseg(semantic, build_graph, make_batch, sizes, before, plain):
    images, img_hw = make_batch(sizes)
    expected = torch.cat([sample.pred_sem_seg.data for sample in semantic.predict(images)])
    (seg,) = build_graph(semantic, plain)(images, img_hw)
    assert seg.dtype == torch.int32
    assert len(expected.unique()) > 2
    assert (seg == expected).float().mean() > 0.995


# --- exports ---


@pytest.fixture(
    params=['panoptic', *(pytest.param(name, marks=pytest.mark.deploy) for name in ('instance', 'semantic'))]
)
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope='module')
def assert_close():
    """Return `assert_close(result, expected)`, which allows for the effect of a few flipped pixels."""

    def check(result, expected):
        for name, value in expected.items():
            assert result[name].dtype == value.dtype
            assert result[name].shape == value.shape
            near = (result[name].float() - value.float()).abs() < (1.5 if name == 'boxes' else 1e-2)
            assert near.float().mean() > 0.99, name

    return check


@pytest.mark.parametrize('dynamic', [False, pytest.param(True, marks=pytest.mark.deploy)], ids=['static', 'dynamic'])
def test_onnx_runtime_agrees(model, build_graph, make_batch, run_onnx, assert_close, dynamic):
    graph = build_graph(model)
    run = run_onnx(graph, make_batch([(64, 96), (64, 64)]), dynamic)
    for sizes in [[(96, 64)], [(61, 90), (32, 32), (50, 128)]] if dynamic else [[(64, 90), (50, 96)]]:
        batch = make_batch(sizes, seed=5)
        assert_close(dict(zip(graph.outputs, run(*batch), strict=True)), outputs(graph, *batch))


def test_the_plain_graph_can_be_exported(model, build_graph, make_batch, export_plain, assert_close):
    batch = make_batch([(64, 90), (50, 96)])
    graph = build_graph(model, plain=True)
    result = export_plain(graph, batch)(*batch)
    assert_close(dict(zip(graph.outputs, result, strict=True)), outputs(graph, *batch))
