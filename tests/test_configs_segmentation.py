"""The configs of segmentors follow their recipes."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import repvit_dense  # noqa: F401  (before mmseg: supplies the ops that mmcv has not compiled)
from repvit_dense import config
from repvit_dense.data import shapes

CONFIGS = [name for name in config.names() if config.load(name).default_scope == 'mmseg']
PUBLISHED = [name for name in CONFIGS if name.endswith(('ade20k', 'cityscapes', 'voc'))]
CLASSES = shapes.THING_CLASSES + shapes.STUFF_CLASSES


@pytest.fixture(params=CONFIGS)
def cfg(request):
    return config.load(request.param)


@pytest.fixture(params=PUBLISHED)
def published(request):
    return config.load(request.param)


def parts(content, key='type'):
    """Yield every dict inside that has this key."""
    if isinstance(content, dict):
        if key in content:
            yield content
        content = content.values()
    elif not isinstance(content, list | tuple):
        return
    for value in content:
        yield from parts(value, key)


def test_everything_is_counted_in_iterations(cfg):
    hooks = {hook.type for hook in cfg.custom_hooks}
    assert hooks >= {'DenseNonFiniteLossHook', 'DenseSaveOnSignalHook', 'DenseProgressHook', 'DenseCurvesHook'}
    assert cfg.train_cfg.type == 'DenseIterLoop'
    assert cfg.train_dataloader.sampler == {'type': 'InfiniteSampler', 'shuffle': True}
    assert not cfg.val_dataloader.sampler.shuffle
    counted = [cfg.default_hooks.checkpoint.by_epoch, cfg.log_processor.by_epoch]
    counted += [cfg.default_hooks.logger.log_metric_by_epoch] + [part.by_epoch for part in cfg.param_scheduler]
    assert not any(counted)
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0
    assert (
        cfg.train_cfg.val_interval % cfg.default_hooks.checkpoint.interval == 0
    )  # every validated state has a checkpoint


def test_pipelines_suit_any_data(cfg):
    """Masks are loaded in one step, whose label map `--data` replaces."""
    for split in ('train', 'val', 'test'):
        steps = [step for step in cfg[f'{split}_dataloader'].dataset.pipeline if 'LoadAnnotations' in step.type]
        assert len(steps) == 1
        assert steps[0].keys() - {'label_map'} == {'type'}


def test_heads_have_the_classes_of_the_data(cfg):
    from mmseg.registry import DATASETS

    dataset = cfg.train_dataloader.dataset
    classes = dataset.get('metainfo', DATASETS.get(dataset.type).METAINFO)['classes']
    assert {part.num_classes for part in parts(cfg.model, 'num_classes')} == {len(classes)}
    weights = len(classes) + ('pixel_decoder' in cfg.model.decode_head)  # one more for queries without an object
    assert {len(part.class_weight) for part in parts(cfg.model, 'class_weight')} <= {weights}
    if dataset.type == 'BaseSegDataset':
        assert (classes == CLASSES) == ('embedded_data' in cfg)
        assert len({tuple(colour) for colour in dataset.metainfo.palette}) == len(classes)


def test_shapes_segmentors_share_their_images_and_the_detector_has_its_own():
    """Both use one folder, which different arguments would redraw at every change of the config."""
    one, other, detector = (
        config.load(f'repvit_{head}_shapes').embedded_data for head in ('segformer', 'semfpn', 'maskrcnn')
    )
    assert one == other
    assert one.root != detector.root


def test_void_of_camvid_is_not_scored(tmp_path):
    """Compare mIoU with that of a confusion matrix without the pixels of void."""
    import mmseg.evaluation  # noqa: F401  registers the metric
    from mmengine.registry import init_default_scope
    from mmseg.registry import METRICS, TRANSFORMS

    import repvit_dense.engine  # noqa: F401  registers the loader

    init_default_scope('mmseg')
    cfg = config.load('repvit_segformer_camvid')
    dataset = cfg.test_dataloader.dataset
    [step] = [step for step in dataset.pipeline if 'LoadAnnotations' in step.type]
    metric = METRICS.build(cfg.test_evaluator)
    metric.dataset_meta = dict(dataset.metainfo)
    rng, counts = np.random.default_rng(0), np.zeros((11, 11), int)
    for number in range(3):
        truth, predicted = rng.integers(0, 12, (9, 13), np.uint8), rng.integers(0, 11, (9, 13))
        Image.fromarray(truth).save(path := tmp_path / f'{number}.png')
        entry = {'seg_map_path': str(path), 'reduce_zero_label': False, 'label_map': None, 'seg_fields': []}
        loaded = TRANSFORMS.build(step)(entry)['gt_seg_map']
        parts = {'pred_sem_seg': predicted, 'gt_sem_seg': loaded}
        metric.process({}, [{key: {'data': torch.from_numpy(value[None])} for key, value in parts.items()}])
        np.add.at(counts, (truth[truth < 11], predicted[truth < 11]), 1)
    correct = counts.diagonal()
    iou = correct / (counts.sum(0) + counts.sum(1) - correct)
    assert metric.compute_metrics(metric.results)['mIoU'] == pytest.approx(100 * iou.mean(), abs=0.01)
    assert len(dataset.metainfo.classes) == 11


# --- recipes ---


def test_published_recipes_start_from_imagenet_weights_with_frozen_norms(published):
    backbone = published.model.backbone
    assert (backbone.type, backbone.arch, backbone.tap) == ('RepViT', 'm1_1', 'stage_end')
    assert backbone.norm_eval
    assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': 'repvit_m1_1_distill_300e.pth'}


@pytest.mark.parametrize(
    'name, iterations, batch, crop, lr, weight_decay',
    [
        ('repvit_semfpn_ade20k', 40_000, 32, 512, 2e-4, 1e-4),  # arXiv 2307.09283, section 4.3
        ('repvit_segformer_ade20k', 160_000, 16, 512, 6e-5, 0.01),  # arXiv 2105.15203, section 4.1
        ('repvit_segformer_cityscapes', 160_000, 8, 1024, 6e-5, 0.01),
        ('repvit_upernet_ade20k', 160_000, 16, 512, 6e-5, 0.01),  # arXiv 2103.14030, appendix A2.3
        ('repvit_deeplabv3_voc', 50 * math.ceil(10_582 / 128), 128, 512, 5e-4, 0.05),  # arXiv 2206.02680
        ('repvit_mask2former_ade20k', 160_000, 16, 512, 1e-4, 0.05),  # arXiv 2112.01527, section 4.1
    ],
)
def test_recipes(name, iterations, batch, crop, lr, weight_decay):
    cfg = config.load(name)
    assert cfg.train_cfg.max_iters == iterations
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': batch}
    assert 8 * cfg.train_dataloader.batch_size == batch  # on eight GPUs
    step = next(step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop')
    assert tuple(step.crop_size) == tuple(cfg.model.data_preprocessor.size) == (crop, crop)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, weight_decay)


@pytest.mark.parametrize(
    'name, warm_up, decay',
    [
        ('repvit_semfpn_ade20k', None, ('PolyLR', 0.9, 1e-6)),
        ('repvit_segformer_ade20k', (1500, 1e-6), ('PolyLR', 1.0, 0.0)),
        ('repvit_segformer_cityscapes', (1500, 1e-6), ('PolyLR', 1.0, 0.0)),
        ('repvit_upernet_ade20k', (1500, 1e-6), ('PolyLR', 1.0, 0.0)),
        ('repvit_deeplabv3_voc', (500, 0.1), ('CosineAnnealingLR', None, 1e-6)),
        ('repvit_mask2former_ade20k', None, ('PolyLR', 0.9, 0.0)),
    ],
)
def test_learning_rate_schedules(name, warm_up, decay):
    *first, last = config.load(name).param_scheduler
    assert [(part.type, part.end, part.start_factor) for part in first] == ([('LinearLR', *warm_up)] if warm_up else [])
    assert (last.type, last.get('power'), last.eta_min) == decay
    assert last.begin == (warm_up[0] if warm_up else 0)
