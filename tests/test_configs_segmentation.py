"""The configs of segmentors: they fit together, follow their recipes, learn, predict any size and can be scored.

Sizes in pixels are divided so that the crops are 64x64; nothing else of a pipeline changes.
"""

import json
import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import repvit_dense  # noqa: F401  (before mmseg: provides what mmcv has not compiled)
from repvit_dense import config
from repvit_dense.data import shapes

HEADS = {
    'repvit_semfpn_ade20k': 'FPNHead',
    'repvit_segformer_ade20k': 'SegformerHead',
    'repvit_segformer_cityscapes': 'SegformerHead',
    'repvit_upernet_ade20k': 'UPerHead',
    'repvit_deeplabv3_voc': 'ASPPHead',
    'repvit_mask2former_ade20k': 'Mask2FormerHead',
    'repvit_segformer_shapes': 'SegformerHead',
    'repvit_semfpn_shapes': 'FPNHead',
}
PUBLISHED = [name for name in HEADS if not name.endswith('shapes')]
CLASSES = shapes.THING_CLASSES + shapes.STUFF_CLASSES
CROP, HEIGHT, WIDTH = 64, 75, 93
TINY = (8, 16, 24, 32)


@pytest.fixture(scope='module', autouse=True)
def scope():
    import mmseg.datasets
    import mmseg.engine
    import mmseg.evaluation
    import mmseg.models
    import mmseg.visualization  # noqa: F401
    from mmengine.registry import init_default_scope

    init_default_scope('mmseg')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Four training and two validation images of 93x75 pixels with semantic label maps."""
    return shapes.generate(tmp_path_factory.mktemp('data') / 'shapes', 0, 4, 2, (HEIGHT, WIDTH))


@pytest.fixture(params=HEADS)
def cfg(request):
    return config.load(request.param)


@pytest.fixture(params=PUBLISHED)
def published(request):
    return config.load(request.param)


def parts(content, key='type'):
    """Every dict inside that has this key."""
    if isinstance(content, dict):
        if key in content:
            yield content
        content = content.values()
    elif not isinstance(content, list | tuple):
        return
    for value in content:
        yield from parts(value, key)


def put_data(cfg, root):
    """The drawn data set in the place of the config's: what says which data it is, and the numbers of classes."""
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        folder = 'train2017' if split == 'train' else 'val2017'
        cfg[f'{split}_dataloader'].dataset = {
            'type': 'BaseSegDataset',
            'data_root': str(root),
            'data_prefix': {'img_path': folder, 'seg_map_path': f'annotations/semantic_{folder}'},
            'img_suffix': '.png',
            'seg_map_suffix': '.png',
            'metainfo': {'classes': CLASSES},
            'pipeline': dataset.pipeline,
        }
    for part in parts(cfg.model, 'num_classes'):
        part.num_classes = len(CLASSES)
    for part in parts(cfg.model, 'class_weight'):
        part.class_weight = [1.0] * len(CLASSES) + [0.1] * ('pixel_decoder' in cfg.model.decode_head)


def divide_sizes(cfg):
    """Pixels of pipelines, padding and windows, so that the crops trained on are about 64x64."""
    by = cfg.model.data_preprocessor.size[0] // CROP

    def divided(value):
        return value // by if isinstance(value, int) else type(value)(divided(part) for part in value)

    pipelines = [cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'val', 'test')]
    steps = [*chain(*pipelines), cfg.model.data_preprocessor, cfg.model.test_cfg]
    sizes = ('scale', 'scales', 'max_size', 'crop_size', 'size', 'stride')
    for step in {id(step): step for step in steps}.values():  # validation and test may share theirs
        step.update({key: divided(step[key]) for key in sizes if key in step})


def make_thin(model):
    """A tiny backbone and thin heads; what hangs together stays in step."""
    model.backbone.update(arch={'embed_dims': TINY, 'depths': (1, 1, 1, 1)}, init_cfg=None)
    takers = (
        [model.neck] if 'neck' in model else [model[key] for key in ('decode_head', 'auxiliary_head') if key in model]
    )
    for part in takers:
        one = isinstance(part.in_channels, int)
        part.in_channels = TINY[model.backbone.out_indices[part.in_index]] if one else list(TINY)
    for part in parts(model, 'channels'):
        part.channels = 16
    head = model.decode_head
    if 'pixel_decoder' in head:
        head.pixel_decoder.encoder.num_layers, head.transformer_decoder.num_layers = 1, 2
        head.num_queries, head.train_cfg.num_points = 20, 256


@pytest.fixture
def thin(cfg, root):
    """The config with little data, small images and a thin model."""
    put_data(cfg, root)
    divide_sizes(cfg)
    make_thin(cfg.model)
    return cfg


def dataset_of(cfg, split):
    from mmseg.registry import DATASETS

    np.random.seed(0)  # crops and flips
    return DATASETS.build(cfg[f'{split}_dataloader'].dataset)


def batch_of(samples):
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def build(cfg):
    from mmseg.registry import MODELS

    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


# --- what is written ---


def test_every_config_of_a_segmentor_is_looked_at():
    folder = Path(__file__).parents[1] / 'configs'
    found = {path.stem for path in folder.glob('*.py') if config.load(path).get('default_scope') == 'mmseg'}
    assert found == set(HEADS)


def test_every_name_is_known(cfg):
    from mmseg import registry as known

    def resolve(where, *registries):
        types = [part['type'] for part in parts(where)]
        assert types
        assert [name for name in types if not any(registry.get(name) for registry in registries)] == []

    resolve({**cfg.default_hooks, 'custom': cfg.custom_hooks}, known.HOOKS)
    resolve([cfg.train_cfg, cfg.val_cfg, cfg.test_cfg], known.LOOPS)
    resolve(cfg.optim_wrapper, known.OPTIM_WRAPPERS, known.OPTIMIZERS)
    resolve(cfg.param_scheduler, known.PARAM_SCHEDULERS)
    resolve(cfg.visualizer, known.VISUALIZERS, known.VISBACKENDS)
    resolve(cfg.log_processor, known.LOG_PROCESSORS)
    resolve([cfg.val_evaluator, cfg.test_evaluator], known.METRICS)
    for split in ('train', 'val', 'test'):
        resolve(cfg[f'{split}_dataloader'], known.DATASETS, known.DATA_SAMPLERS, known.TRANSFORMS)


def test_training_is_counted_in_iterations_and_guarded(cfg):
    hooks = {hook.type for hook in cfg.custom_hooks}
    assert hooks >= {'DenseNonFiniteLossHook', 'DenseSaveOnSignalHook', 'DenseProgressHook', 'DenseReportHook'}
    assert cfg.train_cfg.type == 'DenseIterLoop'
    assert cfg.train_dataloader.sampler == {'type': 'InfiniteSampler', 'shuffle': True}
    assert not cfg.val_dataloader.sampler.shuffle
    counted = [cfg.default_hooks.checkpoint.by_epoch, cfg.log_processor.by_epoch]
    counted += [cfg.default_hooks.logger.log_metric_by_epoch] + [part.by_epoch for part in cfg.param_scheduler]
    assert not any(counted)
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0
    assert cfg.train_cfg.val_interval % cfg.default_hooks.checkpoint.interval == 0  # what is scored can be resumed from


def test_pipelines_know_nothing_of_their_data(cfg):
    """Which label is ignored is a matter of the data set, so any pipeline takes any data."""
    for split in ('train', 'val', 'test'):
        pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
        assert [step for step in pipeline if step.type == 'LoadAnnotations'] == [{'type': 'LoadAnnotations'}]


def test_heads_have_the_classes_of_the_data(cfg):
    from mmseg.registry import DATASETS

    dataset = cfg.train_dataloader.dataset
    classes = dataset.get('metainfo', DATASETS.get(dataset.type).METAINFO)['classes']
    assert {part.num_classes for part in parts(cfg.model, 'num_classes')} == {len(classes)}
    weights = len(classes) + ('pixel_decoder' in cfg.model.decode_head)  # queries may also show no object
    assert {len(part.class_weight) for part in parts(cfg.model, 'class_weight')} <= {weights}
    if dataset.type == 'BaseSegDataset':
        assert classes == CLASSES
        assert len({tuple(colour) for colour in dataset.metainfo.palette}) == len(CLASSES)


def test_thin_segmentors_see_the_same_drawn_pictures_and_detectors_have_their_own():
    """One folder serves both; other arguments would draw it anew at every change of the config."""
    one, other, detector = (
        config.load(f'repvit_{head}_shapes').embedded_data for head in ('segformer', 'semfpn', 'maskrcnn')
    )
    assert one == other
    assert one.root != detector.root


# --- recipes ---


def test_the_reference_starts_from_published_weights_with_frozen_norms(published):
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
def test_learning_rates_over_time(name, warm_up, decay):
    *first, last = config.load(name).param_scheduler
    assert [(part.type, part.end, part.start_factor) for part in first] == ([('LinearLR', *warm_up)] if warm_up else [])
    assert (last.type, last.get('power'), last.eta_min) == decay
    assert last.begin == (warm_up[0] if warm_up else 0)


@pytest.mark.parametrize(
    'name, head_lr, backbone_lr, norm_decay',
    [
        ('repvit_semfpn_ade20k', 2e-4, 2e-4, 1e-4),
        ('repvit_segformer_ade20k', 6e-4, 6e-5, 0),
        ('repvit_segformer_cityscapes', 6e-4, 6e-5, 0),
        ('repvit_upernet_ade20k', 6e-5, 6e-5, 0),
        ('repvit_deeplabv3_voc', 5e-4, 5e-4, 0),
        ('repvit_mask2former_ade20k', 1e-4, 1e-5, 0),
    ],
)
def test_parts_learn_at_their_own_rates(name, head_lr, backbone_lr, norm_decay):
    from mmengine.optim import build_optim_wrapper

    cfg = config.load(name)
    make_thin(cfg.model)
    model = build(cfg)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    group_of = {id(parameter): group for group in groups for parameter in group['params']}
    named = {key: group_of[id(parameter)] for key, parameter in model.named_parameters()}
    for part, rate in (('decode_head', head_lr), ('backbone', backbone_lr)):
        rates = [group['lr'] for key, group in named.items() if key.startswith(part)]
        assert rates == pytest.approx([rate] * len(rates))
    norms = [group['weight_decay'] for key, group in named.items() if key.startswith('backbone') and '.bn.' in key]
    assert len(norms) > 20
    assert set(norms) == {norm_decay}
    convolution = named['backbone.stem.conv1.conv.weight']['weight_decay']
    assert convolution == cfg.optim_wrapper.optimizer.weight_decay


def test_the_reference_resizes_test_images_to_a_multiple_of_32(root):
    cfg = config.load('repvit_semfpn_ade20k')
    put_data(cfg, root)
    sample = dataset_of(cfg, 'val')[0]
    assert sample['inputs'].shape == (3, 512, 640)  # 93x75 is 635x512 where the shorter side is 512
    assert sample['data_samples'].gt_sem_seg.shape == (HEIGHT, WIDTH)


def test_published_semantic_fpn_checkpoints_fit():
    """Names and shapes of neck and head in mmseg 0.30: 1x1 and 3x3 convolutions with bias; heads with norms."""
    cfg = config.load('repvit_semfpn_ade20k')
    with torch.device('meta'):
        state = build_without_weights(cfg).state_dict()
    expected = {'decode_head.conv_seg.weight': (150, 128, 1, 1), 'decode_head.conv_seg.bias': (150,)}
    for level, width in enumerate((64, 128, 256, 512)):
        for part, shape in (('lateral', (256, width, 1, 1)), ('fpn', (256, 256, 3, 3))):
            expected[f'neck.{part}_convs.{level}.conv.weight'] = shape
            expected[f'neck.{part}_convs.{level}.conv.bias'] = (256,)
        for step in range(max(1, level)):  # every second module is an upsampling
            prefix = f'decode_head.scale_heads.{level}.{2 * step}'
            expected[f'{prefix}.conv.weight'] = (128, 128 if step else 256, 3, 3)
            norm = ('weight', 'bias', 'running_mean', 'running_var')
            expected |= {f'{prefix}.bn.{key}': (128,) for key in norm} | {f'{prefix}.bn.num_batches_tracked': ()}
    assert {key: tuple(value.shape) for key, value in state.items() if not key.startswith('backbone.')} == expected


def build_without_weights(cfg):
    from mmseg.registry import MODELS

    cfg.model.backbone.pop('init_cfg', None)
    return MODELS.build(cfg.model)


# --- what is built ---


@torch.no_grad()
def test_whole_models_take_any_size(cfg):
    """As configured, not thinned: channels of backbone, neck and heads agree. Both sides of the image are odd."""
    cfg.model.backbone.init_cfg = None
    cfg.model.test_cfg.update({key: (64, 64) if key == 'crop_size' else (48, 48) for key in ('crop_size', 'stride')})
    model = build(cfg).eval()
    assert type(model.decode_head).__name__ == HEADS[cfg.filename.rpartition('/')[2][:-3]]
    data = {'inputs': [torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)], 'data_samples': [sample_of_size()]}
    (result,) = model.test_step(data)
    assert result.pred_sem_seg.shape == (2 * HEIGHT, 2 * WIDTH)
    assert result.seg_logits.shape == (2 * HEIGHT, 2 * WIDTH)
    assert torch.isfinite(result.seg_logits.data).all()
    assert len(result.seg_logits.data) == model.decode_head.num_classes


def sample_of_size():
    from mmseg.structures import SegDataSample

    return SegDataSample(metainfo={'img_shape': (HEIGHT, WIDTH), 'ori_shape': (2 * HEIGHT, 2 * WIDTH)})


def test_two_steps_of_training(thin):
    """Every parameter that is trained has a finite gradient, in both; what comes in is as large as the crop."""
    from mmengine.optim import build_optim_wrapper

    dataset = dataset_of(thin, 'train')
    model = build(thin)
    optim_wrapper = build_optim_wrapper(model, thin.optim_wrapper)
    before = {key: value.clone() for key, value in model.named_parameters()}
    model.train()
    for step in range(2):
        batch = model.data_preprocessor(batch_of([dataset[2 * step], dataset[2 * step + 1]]), training=True)
        assert batch['inputs'].shape == (2, 3, *thin.model.data_preprocessor.size)
        labels = torch.stack([sample.gt_sem_seg.data for sample in batch['data_samples']])
        assert len(labels.unique()) > 2 and set(labels.unique().tolist()) <= {*range(len(CLASSES)), 255}
        loss, values = model.parse_losses(model(**batch, mode='loss'))
        assert all(torch.isfinite(value) for value in values.values())
        optim_wrapper.backward(loss)
        trained = {key: value.grad for key, value in model.named_parameters() if value.requires_grad}
        assert len(trained) > 60
        assert [key for key, grad in trained.items() if grad is None or not torch.isfinite(grad).all()] == []
        optim_wrapper.step()
        optim_wrapper.zero_grad()
    changed = [key for key, value in model.named_parameters() if not torch.equal(value, before[key])]
    assert len(changed) > 0.9 * len(before)
    assert all(torch.isfinite(value).all() for value in model.parameters())


@torch.no_grad()
def test_predictions_are_scored(thin):
    """Through the pipeline of the config; the labels themselves score 100."""
    from mmseg.registry import METRICS

    dataset = dataset_of(thin, 'test')
    model = build(thin).eval()
    scores = []
    for perfect in (False, True):
        metric = METRICS.build(thin.test_evaluator)
        metric.dataset_meta = dataset.metainfo
        for index in range(len(dataset)):
            batch = batch_of([dataset[index]])
            (result,) = model.test_step(batch)
            assert result.pred_sem_seg.shape == (HEIGHT, WIDTH) == result.gt_sem_seg.shape
            if perfect:
                result.pred_sem_seg = result.gt_sem_seg
            metric.process(batch, [result.to_dict()])
        scores.append(metric.evaluate(len(dataset))['mIoU'])
    assert 0 <= scores[0] < 50
    assert scores[1] == 100


@pytest.mark.parametrize('reduce', [False, True])
def test_an_ignored_first_label_is_the_data_sets_to_say(root, reduce):
    cfg = config.load('repvit_segformer_ade20k')
    put_data(cfg, root)
    for split, folder in (('train', 'train2017'), ('val', 'val2017')):
        cfg[f'{split}_dataloader'].dataset.reduce_zero_label = reduce
        image = Path(dataset_of(cfg, split)[0]['data_samples'].img_path)
        labels = np.asarray(Image.open(root / f'annotations/semantic_{folder}' / image.name)).astype(int)
        found = set(np.unique(labels))
        expected = {label - 1 if label else 255 for label in found} if reduce else found
        seen = set(np.unique(dataset_of(cfg, split)[0]['data_samples'].gt_sem_seg.data.numpy()))
        assert seen == expected if split == 'val' else seen <= expected  # a crop may miss some


# --- a whole run ---


def test_a_run_is_scored_resumed_tested_and_drawn(root, tmp_path):
    """Four iterations and two validations, then two more iterations, then pictures of the test images."""
    from repvit_dense.engine.runner import DenseRunner

    def run(action, max_iters=4, **changes):
        cfg = config.load('repvit_segformer_shapes')
        put_data(cfg, root)
        divide_sizes(cfg)
        make_thin(cfg.model)
        cfg.merge_from_dict(
            {
                'work_dir': str(tmp_path / 'run'),
                'train_cfg.max_iters': max_iters,
                'train_cfg.val_interval': 2,
                'default_hooks.checkpoint.interval': 2,
                'default_hooks.logger.interval': 1,
                'train_dataloader.batch_size': 2,
                'randomness': {'seed': 0},
                'experiment_name': f'{tmp_path.name}_{action}_{max_iters}',
                **changes,
            }
        )
        runner = DenseRunner.from_cfg(cfg)
        return runner, getattr(runner, action)()

    trained, _ = run('train')
    runner, _ = run('train', max_iters=6, resume=True, load_from=str(tmp_path / 'run/iter_4.pth'))
    assert runner.iter == 6
    assert runner.visualizer is not trained.visualizer  # or it would write where that one did
    work_dir = tmp_path / 'run'
    assert {'iter_4.pth', 'iter_6.pth', 'curves.png'} <= {path.name for path in work_dir.iterdir()}
    (best,) = work_dir.glob('best_mIoU_iter_*.pth')
    lines = [
        line for path in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in path.read_text().splitlines()
    ]
    records = [json.loads(line) for line in lines]
    assert [record['iter'] for record in records if 'loss' in record] == [1, 2, 3, 4, 5, 6]
    # The checkpoint of iteration 4 was written before its validation, which is done again.
    assert [record['step'] for record in records if 'mIoU' in record] == [2, 4, 4, 6]
    log = ''.join(path.read_text() for path in work_dir.glob('*/*.log'))
    assert f'Best checkpoint: {best}' in log

    pictures = {
        'default_hooks.visualization.draw': True,
        'default_hooks.visualization.test_out_dir': str(tmp_path / 'p'),
    }
    _, metrics = run('test', load_from=str(best), **pictures)
    assert metrics['mIoU'] == max(record['mIoU'] for record in records if 'mIoU' in record)
    assert sorted(path.name for path in (tmp_path / 'p').iterdir()) == ['000000000001.png', '000000000002.png']
    with Image.open(tmp_path / 'p/000000000001.png') as picture:
        assert picture.size == (2 * WIDTH, HEIGHT)  # ground truth beside prediction
