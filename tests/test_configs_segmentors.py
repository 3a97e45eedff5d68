"""Segmentors built from their configs learn, predict images of any size, and are scored.

All sizes in pixels are divided so that crops are about 64x64; pipelines are otherwise those of the configs.
"""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import repvit_dense  # noqa: F401  (before mmseg: supplies the ops that mmcv has not compiled)
from repvit_dense import config
from repvit_dense.data import shapes

HEADS = {
    'repvit_semfpn_ade20k': 'FPNHead',
    'repvit_segformer_ade20k': 'SegformerHead',
    'repvit_segformer_cityscapes': 'SegformerHead',
    'repvit_upernet_ade20k': 'UPerHead',
    'repvit_deeplabv3_voc': 'ASPPHead',
    'repvit_mask2former_ade20k': 'Mask2FormerHead',
    'repvit_segformer_camvid': 'SegformerHead',
    'repvit_segformer_shapes': 'SegformerHead',
    'repvit_semfpn_shapes': 'FPNHead',
}
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
    """Draw four training and two validation images of 93x75 pixels with semantic label maps."""
    return shapes.generate(tmp_path_factory.mktemp('data') / 'shapes', 0, 4, 2, (HEIGHT, WIDTH))


@pytest.fixture(params=HEADS)
def cfg(request):
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


def put_data(cfg, root):
    """Replace the data of a config by the drawn data set, and its class counts."""
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
    """Divide the sizes of pipelines, padding and sliding windows, so that training crops are about 64x64."""
    by = cfg.model.data_preprocessor.size[0] // CROP

    def divided(value):
        return value // by if isinstance(value, int) else type(value)(divided(part) for part in value)

    pipelines = [cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'val', 'test')]
    steps = [*chain(*pipelines), cfg.model.data_preprocessor, cfg.model.test_cfg]
    sizes = ('scale', 'scales', 'max_size', 'crop_size', 'size', 'stride')
    for step in {id(step): step for step in steps}.values():  # validation and test may share a pipeline
        step.update({key: divided(step[key]) for key in sizes if key in step})


def make_thin(model):
    """Use a tiny backbone and thin heads whose channels agree."""
    model.backbone.update(arch={'embed_dims': TINY, 'depths': (1, 1, 1, 1)}, init_cfg=None)
    consumers = (
        [model.neck] if 'neck' in model else [model[key] for key in ('decode_head', 'auxiliary_head') if key in model]
    )
    for part in consumers:
        single = isinstance(part.in_channels, int)
        part.in_channels = TINY[model.backbone.out_indices[part.in_index]] if single else list(TINY)
    for part in parts(model, 'channels'):
        part.channels = 16
    head = model.decode_head
    if 'pixel_decoder' in head:
        head.pixel_decoder.encoder.num_layers, head.transformer_decoder.num_layers = 1, 2
        head.num_queries, head.train_cfg.num_points = 20, 256


@pytest.fixture
def thin(cfg, root):
    """Return the config with little data, small images and a thin model."""
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


def test_every_segmentor_is_tested():
    folder = Path(__file__).parents[1] / 'configs'
    segmentors = {path.stem for path in folder.glob('*.py') if config.load(path).get('default_scope') == 'mmseg'}
    assert segmentors == set(HEADS)


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
def test_learning_rate_and_weight_decay_by_part(name, head_lr, backbone_lr, norm_decay):
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


def test_semantic_fpn_resizes_test_images_to_a_multiple_of_32(root):
    cfg = config.load('repvit_semfpn_ade20k')
    put_data(cfg, root)
    sample = dataset_of(cfg, 'val')[0]
    assert sample['inputs'].shape == (3, 512, 640)  # 93x75 scaled to 635x512, then to a multiple of 32
    assert sample['data_samples'].gt_sem_seg.shape == (HEIGHT, WIDTH)


@torch.no_grad()
def test_unthinned_models_predict_any_size(cfg):
    """Channels of backbone, neck and heads agree; both sides of the image are odd."""
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
    """Every trained parameter has a finite gradient in both steps; inputs have the size of the crop."""
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
    """Use the test pipeline of the config; the labels themselves score 100."""
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
def test_the_data_set_decides_whether_label_0_is_ignored(root, reduce):
    cfg = config.load('repvit_segformer_ade20k')
    put_data(cfg, root)
    for split, folder in (('train', 'train2017'), ('val', 'val2017')):
        cfg[f'{split}_dataloader'].dataset.reduce_zero_label = reduce
        image = Path(dataset_of(cfg, split)[0]['data_samples'].img_path)
        labels = np.asarray(Image.open(root / f'annotations/semantic_{folder}' / image.name)).astype(int)
        values = set(np.unique(labels))
        expected = {label - 1 if label else 255 for label in values} if reduce else values
        loaded = set(np.unique(dataset_of(cfg, split)[0]['data_samples'].gt_sem_seg.data.numpy()))
        assert loaded == expected if split == 'val' else loaded <= expected  # a crop may lack some


# --- a whole run ---


def test_a_run_is_scored_resumed_tested_and_drawn(root, tmp_path):
    """Train four iterations with two validations, resume for two more, then test with pictures."""
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
    assert runner.visualizer is not trained.visualizer  # a shared one would write into the first run's folder
    work_dir = tmp_path / 'run'
    assert {'iter_4.pth', 'iter_6.pth', 'curves.png'} <= {path.name for path in work_dir.iterdir()}
    (best,) = work_dir.glob('best_mIoU_iter_*.pth')
    lines = [
        line for path in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in path.read_text().splitlines()
    ]
    records = [json.loads(line) for line in lines]
    assert [record['iter'] for record in records if 'loss' in record] == [1, 2, 3, 4, 5, 6]
    # The checkpoint of iteration 4 is written before its validation, so resuming validates again.
    assert [record['step'] for record in records if 'mIoU' in record] == [2, 4, 4, 6]
    log = ''.join(path.read_text() for path in work_dir.glob('*/*.log'))
    assert f'Best checkpoint: {best}' in log

    pictures = {
        'default_hooks.visualization.draw': True,
        'default_hooks.visualization.test_out_dir': str(tmp_path / 'p'),
    }
    _, metrics = run('test', load_from=str(best), **pictures)
    assert metrics['mIoU'] == max(record['mIoU'] for record in records if 'mIoU' in record)
    assert sorted(path.name for path in (tmp_path / 'p').iterdir()) == ['000000000001.jpg', '000000000002.jpg']
    with Image.open(tmp_path / 'p/000000000001.jpg') as picture:
        assert (picture.width - 4) / picture.height == 2 * WIDTH / HEIGHT  # ground truth, a line, prediction
