"""Every packaged config loads, its names resolve, its parts fit together, and its recipe is the published one."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

import repvit_dense  # noqa: F401  (before mmdet: supplies the ops that mmcv has not compiled)
from repvit_dense import config
from repvit_dense.data import shapes

CONFIGS = sorted((Path(__file__).parents[1] / 'configs').glob('*.py'))


@pytest.fixture(autouse=True)
def scope():
    """Register the classes of mmdet and mmseg, and start in the scope of mmdet."""
    for library in ('mmdet', 'mmseg'):
        for part in ('datasets', 'engine', 'evaluation', 'models', 'visualization'):
            importlib.import_module(f'{library}.{part}')
    init_default_scope('mmdet')


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def cfg(request):
    return config.load(request.param)


def parts(content):
    """Yield every dict inside that has a `type`."""
    if isinstance(content, dict):
        if 'type' in content:
            yield content
        content = content.values()
    elif not isinstance(content, list | tuple):
        return
    for value in content:
        yield from parts(value)


def test_there_are_configs():
    assert {'repvit_maskrcnn_coco', 'repvit_maskrcnn_shapes'} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_begins_with_a_description(path):
    assert path.read_text().startswith('# ')


def test_names_resolve(cfg):
    known = importlib.import_module(f'{cfg.default_scope}.registry')

    def resolve(content, *registries):
        types = [part['type'] for part in parts(content)]
        assert types
        assert [name for name in types if not any(registry.get(name) for registry in registries)] == []

    resolve({**cfg.default_hooks, 'custom': cfg.custom_hooks}, known.HOOKS, known.TRANSFORMS)
    resolve([cfg.train_cfg, cfg.val_cfg, cfg.test_cfg], known.LOOPS)
    resolve(cfg.optim_wrapper, known.OPTIM_WRAPPERS, known.OPTIMIZERS)
    resolve(cfg.param_scheduler, known.PARAM_SCHEDULERS)
    resolve(cfg.visualizer, known.VISUALIZERS, known.VISBACKENDS)
    resolve(cfg.log_processor, known.LOG_PROCESSORS)
    resolve([cfg.val_evaluator, cfg.test_evaluator], known.METRICS)
    for split in ('train', 'val', 'test'):
        resolve(cfg[f'{split}_dataloader'], known.DATASETS, known.DATA_SAMPLERS, known.TRANSFORMS)


def test_the_model_is_built_and_its_channels_agree(cfg):
    """Build on the meta device, because some models are large."""
    init_default_scope(cfg.default_scope)
    config.check_channels(cfg)
    cfg.model.backbone.pop('init_cfg', None)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        features = model.backbone(torch.zeros(1, 3, 64, 64))
    consumer = cfg.model.get('neck') or cfg.model.get('panoptic_head') or cfg.model.decode_head
    channels = [feature.shape[1] for feature in features]
    in_channels = consumer.in_channels
    expected = channels[consumer.in_index] if isinstance(in_channels, int) else channels
    assert (in_channels if isinstance(in_channels, int) else list(in_channels)) == expected


def test_metrics_use_the_annotations_of_the_validation_data(cfg):
    for split in ('val', 'test'):
        dataset, evaluator = cfg[f'{split}_dataloader'].dataset, cfg[f'{split}_evaluator']
        first = evaluator[0] if isinstance(evaluator, list) else evaluator
        if 'ann_file' in first:
            assert first.ann_file == dataset.data_root + dataset.ann_file
            assert dataset.test_mode
        assert not cfg[f'{split}_dataloader'].sampler.shuffle
    assert cfg.train_dataloader.dataset != cfg.val_dataloader.dataset


def test_training_has_the_hooks_of_this_package_and_keeps_its_best_checkpoint(cfg):
    hooks = [hook.type for hook in cfg.custom_hooks]
    assert {'DenseNonFiniteLossHook', 'DenseSaveOnSignalHook', 'DenseProgressHook', 'DenseCurvesHook'} <= set(hooks)
    assert cfg.train_cfg.type in ('DenseEpochLoop', 'DenseIterLoop')
    assert cfg.default_hooks.checkpoint.save_best
    assert cfg.custom_imports.imports == ['repvit_dense']


def test_the_coco_config_is_the_published_recipe():
    """Compare with RepViT, arXiv 2307.09283, section 4.2, and its reference code."""
    cfg = config.load('repvit_maskrcnn_coco')
    assert cfg.optim_wrapper == {
        'type': 'OptimWrapper',
        'optimizer': {'type': 'AdamW', 'lr': 2e-4, 'weight_decay': 0.05},
    }
    assert cfg.train_cfg.max_epochs == 12
    warmup, steps = cfg.param_scheduler
    assert warmup == {'type': 'LinearLR', 'start_factor': 0.001, 'by_epoch': False, 'begin': 0, 'end': 500}
    assert steps.type == 'MultiStepLR'
    assert (steps.milestones, steps.gamma, steps.by_epoch) == ([8, 11], 0.1, True)
    assert (steps.begin, steps.end) == (0, 12)
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': 16}
    assert cfg.train_dataloader.batch_size == 2

    backbone = cfg.model.backbone
    assert (backbone.type, backbone.arch, backbone.tap) == ('RepViT', 'm1_1', 'stage_body')
    assert backbone.norm_eval
    assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': 'repvit_m1_1_distill_300e.pth'}
    assert backbone.get('frozen_stages', -1) == -1
    assert backbone.get('drop_path_rate', 0) == 0

    for pipeline in (cfg.train_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline):
        resize = next(step for step in pipeline if step.type == 'Resize')
        assert (resize.scale, resize.keep_ratio) == ((1333, 800), True)
    flip = next(step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomFlip')
    assert flip.prob == 0.5
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 80
    preprocessor = cfg.model.data_preprocessor
    assert (preprocessor.mean, preprocessor.std) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert preprocessor.bgr_to_rgb


def test_the_coco_config_has_the_paths_of_the_download():
    cfg = config.load('repvit_maskrcnn_coco')
    for split, folder in (('train', 'train2017'), ('val', 'val2017')):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.ann_file == f'annotations/instances_{folder}.json'
        assert dataset.data_prefix.img == f'{folder}/'
        assert dataset.data_root == 'data/coco/'


def test_the_shapes_config_has_the_classes_of_the_shapes():
    cfg = config.load('repvit_maskrcnn_shapes')
    assert cfg.metainfo.classes == shapes.THING_CLASSES
    assert Path(cfg.embedded_data.root) == Path(cfg.data_root)


def test_a_training_step_on_drawn_samples(tmp_path):
    """Losses are finite, and so is the gradient of every trained parameter."""
    from mmdet.registry import DATASETS, MODELS

    cfg = config.load('repvit_maskrcnn_shapes')
    cfg.embedded_data.update(root=str(tmp_path / 'shapes'), num_train=2, num_val=1, size=(128, 160))
    config.prepare_data(cfg)
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'shapes')
    np.random.seed(0)  # the flips
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    samples = [dataset[i] for i in range(2)]
    batch = {key: [sample[key] for sample in samples] for key in samples[0]}

    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total, values = model.parse_losses(losses)
    expected = {'loss', 'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask', 'acc'}
    assert set(values) == expected
    assert all(torch.isfinite(value).all() for value in values.values())
    assert values['loss_mask'] > 0.1 and values['loss_bbox'] > 0  # the images contain objects
    total.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) > 200
    assert [name for name, grad in trained.items() if grad is None or not torch.isfinite(grad).all()] == []
