"""The options of a training, applied to every config, and the preset for a data set of one's own."""

import math

import pytest

from repvit_dense import config
from repvit_dense.config import presets, schedule
from repvit_dense.config.images import Images
from repvit_dense.data import shapes
from repvit_dense.errors import InputError

IMAGES = 12


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a working directory whose `data/shapes` is a data set for every task."""
    folder = tmp_path_factory.mktemp('presets')
    shapes.generate(folder / 'data/shapes', num_train=IMAGES, num_val=1, size=(64, 64))
    return folder


@pytest.fixture
def load(folder, monkeypatch):
    """Return `load(name, own=False, **settings)`: a config with data and settings, and what is said about it."""
    monkeypatch.chdir(folder)

    def call(name, own=False, options=(), **settings):
        notes = []
        keys = {option.partition('=')[0] for option in options}
        settings = presets.Settings(**settings, keys=keys)
        cfg = config.load(
            name, options, data='shapes', change=lambda cfg: notes.extend(presets.apply(cfg, settings, own))
        )

        return cfg, notes

    return call


def iterations(cfg):
    """Return the number of iterations of a training, and of an epoch."""
    epoch = math.ceil(IMAGES / cfg.train_dataloader.batch_size)
    return cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs * epoch, epoch


def check(cfg):
    """Require a schedule that ends with the training, and a validation and a checkpoint within it."""
    total, epoch = iterations(cfg)
    units = {True: epoch, False: 1}
    ends = [part.end * units[part.get('by_epoch', True)] for part in cfg.param_scheduler]
    assert max(ends) == total
    for part in cfg.param_scheduler:
        assert part.get('begin', 0) < part.end
        assert all(step <= part.end for step in part.get('milestones', ()))
        if schedule.is_warm_up(part):
            assert part.end <= max(1, total // 10)
    by_epoch = 'max_epochs' in cfg.train_cfg
    length = cfg.train_cfg.max_epochs if by_epoch else total
    assert 1 <= cfg.train_cfg.val_interval <= length
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.get('by_epoch', True) == by_epoch and 1 <= checkpoint.interval <= length
    assert cfg.default_hooks.logger.interval <= total
    config.check_sections(cfg, ('train', 'val'))


NAMES = pytest.mark.parametrize('name', config.names())


@NAMES
def test_epochs_of_every_config(load, name):
    cfg, _ = load(name, epochs=3, batch=2, size=256, workers=0)
    assert iterations(cfg)[0] == 18
    assert cfg.train_dataloader.num_workers == 0 and not cfg.train_dataloader.persistent_workers
    check(cfg)


@NAMES
@pytest.mark.parametrize('iters', [1, 50])
def test_iterations_of_every_config(load, name, iters):
    cfg, _ = load(name, iters=iters, batch=2)
    assert iterations(cfg)[0] == iters
    if 'max_epochs' in cfg.train_cfg:
        assert cfg.train_cfg.max_epochs == math.ceil(iters / 6)
        assert not any(part.get('by_epoch', True) for part in cfg.param_scheduler)
    check(cfg)


@NAMES
def test_the_preset_of_every_config(load, name):
    cfg, notes = load(name, own=True)
    assert cfg.train_dataloader.batch_size == 1  # 8 iterations of an epoch at least
    assert notes[0].startswith(f'preset for {IMAGES} images: {iterations(cfg)[0] // IMAGES} epochs, batch 1')
    check(cfg)


@NAMES
def test_every_training_is_described_in_a_line(load, name):
    cfg, _ = load(name, epochs=3, batch=2)
    line = schedule.describe(cfg)
    assert '\n' not in line and 'batch 2, AdamW, lr ' in line and '; validation every ' in line
    assert ('3 epochs of 6 iterations' in line) == ('max_epochs' in cfg.train_cfg)
    assert ('18 iterations (3 epochs)' in line) == ('max_iters' in cfg.train_cfg)


def test_what_a_description_says(load):
    cfg, _ = load('repvit_maskrcnn_coco', epochs=20, batch=2)
    assert schedule.describe(cfg) == (
        '20 epochs of 6 iterations, batch 2, AdamW, lr 7.071e-05 after 12 warm-up iterations, steps after 13 and 18; '
        'validation every epoch'
    )


def test_options_have_precedence_over_the_preset(load):
    cfg, notes = load('repvit_maskrcnn_coco', own=True, epochs=7, batch=3, size=512, lr=0.5)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size, cfg.optim_wrapper.optimizer.lr) == (7, 3, 0.5)
    assert notes == []


def test_cfg_options_have_precedence_over_the_preset(load):
    options = ['train_cfg.max_epochs=5', 'train_dataloader.batch_size=3']
    cfg, notes = load('repvit_maskrcnn_coco', own=True, options=options)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (5, 3)
    assert (cfg.param_scheduler[1].end, cfg.optim_wrapper.optimizer.lr) == (12, 2e-4)  # exactly what was asked for
    assert not any('epochs' in note or 'lr' in note for note in notes[1:])


# --- learning rate ---


@pytest.mark.parametrize('optimizer, factor', [('AdamW', 0.5), ('SGD', 0.25)])
def test_the_learning_rate_follows_the_batch_size(optimizer, factor):
    cfg = config.load('repvit_maskrcnn_shapes', ['optim_wrapper.optimizer.type=' + optimizer])
    cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size = 2, 16
    lr = cfg.optim_wrapper.optimizer.lr
    assert schedule.scale_lr(cfg, processes=2)
    assert cfg.optim_wrapper.optimizer.lr == lr * factor
    assert cfg.param_scheduler[1].eta_min == 1e-5 * factor
    assert cfg.auto_scale_lr.base_batch_size == 4
    assert schedule.scale_lr(cfg, processes=2) is None  # a config of a work dir is not scaled again


def test_accumulated_gradients_count(load):
    cfg, notes = load('repvit_maskrcnn_coco', epochs=1)
    cfg.optim_wrapper.accumulative_counts = 8
    assert schedule.total_batch(cfg, 2) == 32


# --- sizes and numbers of the preset ---


@pytest.mark.parametrize(
    'images, recipe, expected',
    [
        ((2048, 1536), 256, 640),
        ((640, 480), 256, 320),
        ((640, 480), 640, None),
        ((1280, 720), 640, None),
        ((100, 80), 640, 224),
        ((4000, 3000), 1024, None),
        ((640, 480), (1333, 800), None),
        ((300, 200), (1333, 800), 608),
    ],
)
def test_the_size_follows_the_images(images, recipe, expected):
    cfg = config.load('repvit_maskrcnn_coco')
    presets.sizes.set_size(cfg, recipe)
    assert presets._size(cfg, Images(10, images)) == expected


def test_lost_objects_are_named():
    cfg = config.load('repvit_maskrcnn_shapes')
    (note,) = presets._size_notes(cfg, Images(10, (2048, 1536)))
    assert note == (
        'images are 2048x1536, training at 256x256: objects under 64 pixels vanish; --size 512 shows more of them'
    )
    assert '--size 64 is faster' in presets._size_notes(cfg, Images(10, (60, 50)))[0]


@pytest.mark.parametrize(
    'number, size, processes, gpu, expected',
    [
        (1000, 640, 1, True, 8),
        (1000, 640, 1, False, 4),
        (1000, (1333, 800), 1, True, 4),
        (20, 320, 1, True, 2),
        (1, 320, 1, True, 1),
        (100, 320, 8, True, 1),
        (1000, 8000, 1, True, 1),
    ],
)
def test_batch_sizes(number, size, processes, gpu, expected):
    assert presets._batch(Images(number, None), size, processes, gpu) == expected


def test_more_images_are_trained_for_fewer_epochs_but_more_iterations():
    steps = [(limit - 1) * epochs for limit, epochs in presets.EPOCHS[:-1]]
    assert steps == sorted(steps)
    assert [epochs for _, epochs in presets.EPOCHS] == sorted((e for _, e in presets.EPOCHS), reverse=True)


# --- frozen parts, averages, patience ---


@pytest.mark.parametrize(
    'part, stages, norms', [('backbone', 4, True), (2, 2, True), ('3', 3, True), ('none', -1, False)]
)
def test_freezing(part, stages, norms):
    cfg = config.load('repvit_maskrcnn_coco')
    presets.freeze(cfg, part)
    assert (cfg.model.backbone.frozen_stages, cfg.model.backbone.norm_eval) == (stages, norms)


@pytest.mark.parametrize('part', ['0', 5, 'head', True])
def test_other_parts_cannot_be_frozen(part):
    with pytest.raises(InputError, match=f"--freeze {part}: expected 'backbone', 'none', or a number"):
        presets.freeze(config.load('repvit_maskrcnn_coco'), part)


def test_random_weights_are_not_frozen():
    cfg = config.load('repvit_maskrcnn_coco')
    assert presets.thaw_random(cfg, frozen=True) is None
    cfg.model.backbone.init_cfg = {'type': 'Kaiming', 'layer': 'Conv2d'}
    with pytest.raises(InputError, match='random weights'):
        presets.thaw_random(cfg, frozen=True)
    assert 'no norm is frozen' in presets.thaw_random(cfg, frozen=False)
    assert not cfg.model.backbone.norm_eval
    assert presets.thaw_random(cfg, frozen=False) is None


@NAMES
def test_averages_fit_the_length_of_the_training(load, name):
    cfg, _ = load(name, iters=200, ema=True)
    (hook,) = [hook for hook in cfg.custom_hooks if hook['type'] == 'EMAHook']
    assert hook['momentum'] == 0.1 and hook['update_buffers']
    assert hook.get('ema_type') != 'ExpMomentumEMA' or hook['gamma'] == 10


def test_patience_needs_a_score():
    cfg = config.load('repvit_maskrcnn_shapes')
    presets.apply(cfg, presets.Settings(patience=3))
    assert cfg.custom_hooks[-1] == {'type': 'DensePatienceHook', 'patience': 3}
    cfg.default_hooks.checkpoint.save_best = None
    with pytest.raises(InputError, match='--patience 3: .*save_best'):
        presets.apply(cfg, presets.Settings(patience=3))
