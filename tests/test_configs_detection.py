"""Detectors built from their configs train every parameter on drawn data, predict, and are scored."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import repvit_dense  # noqa: F401  (before mmdet: supplies the ops that mmcv has not compiled)
from repvit_dense import config
from repvit_dense.compat import panoptic_api
from repvit_dense.data import shapes

COCO = ('cascade-maskrcnn', 'retinanet', 'ssdlite', 'rtmdet-ins', 'detr')
CONFIGS = [f'repvit_{name}_coco' for name in COCO] + [
    'repvit_rtmdet_bccd',
    *(f'repvit_mask2former_{data}' for data in ('coco-instance', 'coco-panoptic', 'shapes-panoptic')),
]
PANOPTIC = CONFIGS[-2:]
BOXES_ONLY = ('repvit_retinanet_coco', 'repvit_ssdlite_coco', 'repvit_detr_coco', 'repvit_rtmdet_bccd')
ARCH = {'embed_dims': (8, 16, 24, 32), 'depths': (1, 1, 1, 1)}
SIZE = 96  # of the drawn images, in pixels
LOSSES = {
    'repvit_cascade-maskrcnn_coco': {'loss_rpn_cls', 's0.loss_mask', 's2.loss_bbox'},
    'repvit_retinanet_coco': {'loss_cls', 'loss_bbox'},
    'repvit_ssdlite_coco': {'loss_cls', 'loss_bbox'},
    'repvit_rtmdet-ins_coco': {'loss_cls', 'loss_bbox', 'loss_mask'},
    'repvit_rtmdet_bccd': {'loss_cls', 'loss_bbox'},
    'repvit_detr_coco': {'loss_cls', 'loss_iou', 'd4.loss_bbox'},
    'repvit_mask2former_coco-instance': {'loss_mask', 'loss_dice', 'd8.loss_cls'},
    'repvit_mask2former_coco-panoptic': {'loss_mask', 'loss_dice', 'd8.loss_cls'},
    'repvit_mask2former_shapes-panoptic': {'loss_mask', 'loss_dice', 'd2.loss_cls'},
}


@pytest.fixture(scope='module', autouse=True)
def scope():
    import mmdet.datasets
    import mmdet.engine
    import mmdet.evaluation
    import mmdet.models
    import mmdet.visualization  # noqa: F401
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    with panoptic_api.patched():
        yield


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    return shapes.generate(tmp_path_factory.mktemp('data') / 'shapes', 0, 6, 2, (SIZE, SIZE))


def dicts(content):
    """Yield every dict inside."""
    if isinstance(content, dict):
        yield content
        content = content.values()
    elif not isinstance(content, list | tuple):
        return
    for value in content:
        yield from dicts(value)


# Smaller numbers that save time.
THIN = {'fc_out_channels': 32, 'num': 32, 'nms_pre': 100, 'max_per_img': 50, 'feedforward_channels': 64}
# Thresholds at which even an untrained network predicts.
KEEP_ALL = {'score_thr': 0, 'object_mask_thr': 0}
LENGTHS = ('scale', 'img_scale', 'crop_size', 'size')  # of images, in pixels


def shrink(cfg):
    """Use a tiny backbone and thin heads; divide image sizes by 8 (shapes: by 2, SSD: by 1)."""
    cfg.model.backbone.pop('init_cfg', None)
    cfg.model.backbone.arch = ARCH
    channels = [ARCH['embed_dims'][i] for i in cfg.model.backbone.out_indices]
    consumer = cfg.model.get('neck') or cfg.model.panoptic_head
    consumer.in_channels = channels
    if consumer.get('type') == 'SSDNeck':
        consumer.out_channels = [*channels, *consumer.out_channels[2:]]
        cfg.model.bbox_head.in_channels = consumer.out_channels
    factor = 1 if 'ssdlite' in cfg.filename else 2 if 'shapes' in cfg.filename or 'bccd' in cfg.filename else 8
    for part in dicts([cfg.train_dataloader, cfg.val_dataloader, cfg.custom_hooks, cfg.model.data_preprocessor]):
        part.update({key: tuple(side // factor for side in part[key]) for key in LENGTHS if key in part})
        if 'scales' in part:
            part.scales = [(long // factor, short // factor) for long, short in part.scales]
    for part in dicts(cfg.model):
        part.update({key: value for key, value in (THIN | KEEP_ALL).items() if key in part})
    if 'panoptic_head' in cfg.model:
        cfg.model.train_cfg.num_points = 256
        cfg.model.test_cfg.update(object_mask_thr=0, iou_thr=0)


def use_drawn(cfg, root):
    """Replace COCO by the drawn data: classes, class counts and paths."""
    things, stuff = shapes.THING_CLASSES, shapes.STUFF_CLASSES if 'panoptic' in cfg.filename else ()
    metainfo = {'classes': things + stuff, 'thing_classes': things, 'stuff_classes': stuff}
    for part in dicts([cfg.train_dataloader, cfg.val_dataloader, cfg.val_evaluator, cfg.custom_hooks]):
        part.pop('poly2mask', None)  # the drawn masks are run-length codes
        if 'data_root' in part:
            part.update(data_root=f'{root}/', metainfo=metainfo)
        for key in {'ann_file', 'seg_prefix'} & set(part) if 'data_root' not in part else ():
            part[key] = part[key].replace(cfg.data_root, f'{root}/')
    counts = {'num_classes': len(things), 'num_things_classes': len(things), 'num_stuff_classes': len(stuff)}
    for part in dicts(cfg.model):
        part.update({key: count for key, count in counts.items() if key in part})
    if 'panoptic_head' in cfg.model:
        cfg.model.panoptic_head.loss_cls.class_weight = [1.0] * len(metainfo['classes']) + [0.1]


@pytest.fixture(scope='module')
def small(drawn):
    """Return `small(name)`, the shrunk config of this name with the drawn data."""

    def load(name):
        cfg = config.load(name, data=None if '_coco' in name or 'shapes' in name else str(drawn))
        shrink(cfg)
        use_drawn(cfg, drawn)
        return cfg

    return load


def collate(samples):
    return {key: [sample[key] for sample in samples] for key in samples[0]}


@pytest.fixture(scope='module', params=CONFIGS)
def trained(request, small):
    """Take two optimisation steps with two images each; collect losses and the parameters without a gradient."""
    from mmdet.registry import DATASETS, MODELS
    from mmengine.optim import build_optim_wrapper

    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    cfg = small(request.param)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    samples = [dataset[i % len(dataset)] for i in range(8)][-4:]  # the first four fill the caches of mosaic and mixup
    model = MODELS.build(cfg.model)
    model.init_weights()
    optim = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    losses, without = [], []
    for batch in (collate(samples[:2]), collate(samples[2:])):
        total, values = model.parse_losses(model(**model.data_preprocessor(batch, training=True), mode='loss'))
        losses.append(values)
        optim.backward(total)
        trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        without += [name for name, grad in trained.items() if grad is None or not torch.isfinite(grad).all()]
        optim.step()
        optim.zero_grad()
    return SimpleNamespace(
        name=request.param, cfg=cfg, model=model, samples=samples, losses=losses, without=without, count=len(trained)
    )


def test_every_parameter_learns(trained):
    assert trained.count > 100
    assert trained.without == []
    for values in trained.losses:
        assert LOSSES[trained.name] <= set(values)
        assert all(torch.isfinite(value).all() for value in values.values())
        assert all(values[name] > 0 for name in LOSSES[trained.name])
    assert all(torch.isfinite(p).all() for p in trained.model.state_dict().values())


def test_the_samples_contain_the_drawn_objects(trained):
    instances = [sample['data_samples'].gt_instances for sample in trained.samples]
    assert all(map(len, instances))
    masks = [part.masks for part in instances if 'masks' in part]
    assert len(masks) == (0 if trained.name in BOXES_ONLY else len(instances))
    assert all(mask.areas.min() > 0 for mask in masks)


def test_predictions_are_scored(trained):
    from mmdet.registry import DATASETS
    from mmengine.evaluator import Evaluator

    dataset = DATASETS.build(trained.cfg.val_dataloader.dataset)
    evaluator = Evaluator(trained.cfg.val_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    batch = collate([dataset[i] for i in range(2)])
    trained.model.eval()
    with torch.no_grad():
        results = trained.model.test_step(batch)
    evaluator.process(data_samples=results, data_batch=batch)
    scores = evaluator.evaluate(2)
    best = trained.cfg.default_hooks.checkpoint.save_best
    assert best in scores and 0 <= scores[best] <= 100
    for sample in results:
        if 'pred_panoptic_seg' in sample:
            assert sample.pred_panoptic_seg.sem_seg.shape == (1, SIZE, SIZE)
        if 'pred_instances' in sample and trained.name != CONFIGS[-1]:
            assert len(sample.pred_instances)
            assert sample.pred_instances.bboxes.max() <= SIZE
            if 'masks' in sample.pred_instances:
                assert sample.pred_instances.masks.shape[1:] == (SIZE, SIZE)


@pytest.mark.parametrize('name', PANOPTIC)
def test_the_ground_truth_has_a_panoptic_quality_of_100(small, name):
    from mmdet.evaluation.functional import INSTANCE_OFFSET
    from mmdet.registry import DATASETS
    from mmengine.evaluator import Evaluator
    from mmengine.structures import PixelData

    cfg = small(name)
    cfg.val_dataloader.dataset.pipeline = [s for s in cfg.val_dataloader.dataset.pipeline if s.type != 'Resize']
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    evaluator = Evaluator(evaluators[0])
    evaluator.dataset_meta = dataset.metainfo
    samples = [dataset[i]['data_samples'] for i in range(2)]
    for sample in samples:
        truth = sample.gt_sem_seg.sem_seg.int()
        for number, mask in enumerate(sample.gt_instances.masks.masks, start=1):
            truth[0, torch.from_numpy(mask) > 0] += number * INSTANCE_OFFSET
        sample.pred_panoptic_seg = PixelData(sem_seg=truth)
    evaluator.process(data_samples=samples)
    scores = evaluator.evaluate(2)
    assert [scores[f'coco_panoptic/{key}'] for key in ('PQ', 'SQ', 'RQ', 'PQ_th', 'PQ_st')] == [100] * 5


# --- recipes ---

ADAMW = {
    # name: lr, weight decay, batch size of one process, total batch size
    'repvit_cascade-maskrcnn_coco': (1e-4, 0.05, 2, 16),
    'repvit_retinanet_coco': (1e-4, 1e-4, 2, 16),
    'repvit_ssdlite_coco': (9e-4, 0.01, 32, 128),
    'repvit_rtmdet-ins_coco': (4e-3, 0.05, 32, 256),
    'repvit_detr_coco': (1e-4, 1e-4, 2, 16),
    'repvit_mask2former_coco-instance': (1e-4, 0.05, 2, 16),
    'repvit_mask2former_coco-panoptic': (1e-4, 0.05, 2, 16),
}


@pytest.mark.parametrize('name', ADAMW)
def test_the_optimizer_follows_the_paper(name):
    cfg = config.load(name)
    optimizer = cfg.optim_wrapper.optimizer
    images = (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size)
    assert optimizer.type == 'AdamW'
    assert (optimizer.lr, optimizer.weight_decay, *images) == ADAMW[name]
    assert not cfg.auto_scale_lr.enable


@pytest.mark.parametrize(
    'name, epochs, steps',
    [
        ('repvit_cascade-maskrcnn_coco', 36, [27, 33]),
        ('repvit_retinanet_coco', 12, [8, 11]),
        ('repvit_detr_coco', 150, [100]),
        ('repvit_ssdlite_coco', 200, None),
        ('repvit_rtmdet-ins_coco', 300, None),
    ],
)
def test_epochs_and_steps(name, epochs, steps):
    cfg = config.load(name)
    last = cfg.param_scheduler[-1]
    assert (cfg.train_cfg.type, cfg.train_cfg.max_epochs) == ('DenseEpochLoop', epochs)
    assert (last.end, last.by_epoch, last.get('milestones')) == (epochs, True, steps)


@pytest.mark.parametrize('name', [name for name in CONFIGS if 'mask2former' in name])
def test_everything_is_counted_in_iterations(name):
    cfg = config.load(name)
    iterations = cfg.train_cfg.max_iters
    assert cfg.train_cfg.type == 'DenseIterLoop'
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    assert not cfg.log_processor.by_epoch and not cfg.default_hooks.logger.log_metric_by_epoch
    assert not cfg.default_hooks.checkpoint.by_epoch
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
    assert [(part.by_epoch, part.end <= iterations) for part in cfg.param_scheduler] == [(False, True)] * len(
        cfg.param_scheduler
    )
    assert cfg.param_scheduler[-1].end == iterations


def test_iterations_of_mask2former():
    """Expect 50 epochs of 118000 images in batches of 16, drops at 0.889 and 0.963 (arXiv 2112.01527, section 4.1)."""
    for name in ('repvit_mask2former_coco-instance', 'repvit_mask2former_coco-panoptic'):
        cfg = config.load(name)
        assert cfg.train_cfg.max_iters == 118000 * 50 / 16
        steps = [step / cfg.train_cfg.max_iters for step in cfg.param_scheduler[0].milestones]
        assert steps == pytest.approx([0.889, 0.963], abs=1e-3)
        assert cfg.optim_wrapper.clip_grad.max_norm == 0.01


GROUPS = {
    # name: part -> lr, weight decay
    'repvit_detr_coco': {
        'backbone.stem.conv1.conv.weight': (1e-5, 1e-4),
        'encoder.layers.0.ffn.layers.1.weight': (1e-4, 1e-4),
    },
    'repvit_cascade-maskrcnn_coco': {
        'backbone.stem.conv1.conv.weight': (1e-4, 0.05),
        'backbone.stem.conv1.bn.weight': (1e-4, 0),
    },
    'repvit_rtmdet-ins_coco': {
        'bbox_head.rtm_cls.0.weight': (4e-3, 0.05),
        'bbox_head.rtm_cls.0.bias': (4e-3, 0),
    },
    'repvit_mask2former_coco-panoptic': {
        'backbone.stem.conv1.conv.weight': (1e-5, 0.05),
        'panoptic_head.query_feat.weight': (1e-4, 0),
        'panoptic_head.pixel_decoder.level_encoding.weight': (1e-4, 0),
        'panoptic_head.transformer_decoder.layers.0.norms.0.weight': (1e-4, 0),
        'panoptic_head.cls_embed.weight': (1e-4, 0.05),
    },
}


@pytest.mark.parametrize('name', GROUPS)
def test_learning_rate_and_weight_decay_by_part(name):
    from mmdet.registry import MODELS
    from mmengine.optim import build_optim_wrapper

    cfg = config.load(name)
    cfg.model.backbone.pop('init_cfg')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    group_of = {p: group for group in optimizer.param_groups for p in group['params']}
    for part, expected in GROUPS[name].items():
        group = group_of[model.get_parameter(part)]
        assert (group['lr'], group['weight_decay']) == pytest.approx(expected)


@pytest.mark.parametrize('name', [name for name in CONFIGS if '_coco' in name])
def test_the_paths_of_coco_are_those_of_the_download(name):
    cfg = config.load(name)
    kind = 'panoptic' if name in PANOPTIC else 'instances'
    for split in ('train', 'val', 'test'):
        folder = 'train2017' if split == 'train' else 'val2017'
        dataset = cfg[f'{split}_dataloader'].dataset
        assert (dataset.data_root, dataset.ann_file) == ('data/coco/', f'annotations/{kind}_{folder}.json')
        prefix = {'img': f'{folder}/'} | ({'seg': f'annotations/panoptic_{folder}/'} if name in PANOPTIC else {})
        assert dataset.data_prefix == prefix
    assert cfg.model.backbone.arch == 'm1_1'
    assert cfg.model.backbone.init_cfg.checkpoint == 'repvit_m1_1_distill_300e.pth'


def test_rtmdet_switches_its_pipeline_for_the_last_20_epochs(small):
    from mmdet.registry import DATASETS

    cfg = config.load('repvit_rtmdet-ins_coco')
    switch = next(hook for hook in cfg.custom_hooks if hook.type == 'PipelineSwitchHook')
    assert cfg.train_cfg.max_epochs - switch.switch_epoch == 20
    assert cfg.train_cfg.dynamic_intervals == [(switch.switch_epoch, 1)]
    before, after = ({s.type for s in p} for p in (cfg.train_dataloader.dataset.pipeline, switch.switch_pipeline))
    assert before - after == {'CachedMosaic', 'CachedMixUp'} and after < before
    cfg = small('repvit_rtmdet-ins_coco')
    switch = next(hook for hook in cfg.custom_hooks if hook.type == 'PipelineSwitchHook')
    cfg.train_dataloader.dataset.pipeline = switch.switch_pipeline
    assert DATASETS.build(cfg.train_dataloader.dataset)[0]['inputs'].shape == (3, 80, 80)


@pytest.mark.parametrize('name', ['repvit_ssdlite_coco', 'repvit_rtmdet-ins_coco'])
def test_the_hook_for_averaged_weights_follows_the_common_hooks(name):
    cfg, common = config.load(name), config.load('repvit_maskrcnn_coco')
    assert cfg.custom_hooks[: len(common.custom_hooks)] == common.custom_hooks
    assert cfg.custom_hooks[len(common.custom_hooks)].type == 'EMAHook'


def test_the_panoptic_shapes_config_has_the_classes_of_the_shapes():
    cfg = config.load('repvit_mask2former_shapes-panoptic')
    assert cfg.metainfo.thing_classes + cfg.metainfo.stuff_classes == cfg.metainfo.classes
    assert list(cfg.metainfo.classes) == [category['name'] for category in shapes.categories()]
    head = cfg.model.panoptic_head
    assert (head.num_things_classes, head.num_stuff_classes) == (len(shapes.THING_CLASSES), len(shapes.STUFF_CLASSES))
    assert cfg.embedded_data == config.load('repvit_segformer_shapes').embedded_data  # drawn once for both


def test_a_run_by_iterations_is_scored_and_keeps_its_best_checkpoint(small, tmp_path):
    import json

    from repvit_dense.engine.runner import DenseRunner

    cfg = small('repvit_mask2former_shapes-panoptic')
    cfg.work_dir = str(tmp_path)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.train_dataloader.batch_size = 1
    cfg.default_hooks.logger.interval = 1
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    DenseRunner.from_cfg(cfg).train()
    assert (tmp_path / 'best_coco_panoptic_PQ_iter_2.pth').exists()
    assert (tmp_path / 'curves.png').exists()
    lines = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record['step'] for record in records] == [1, 2, 2]
    assert 0 <= records[-1]['coco_panoptic/PQ'] <= 100
