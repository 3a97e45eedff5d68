"""`test`: refusals, and the config that it runs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHAPES = str(ROOT / 'configs/repvit_maskrcnn_shapes.py')


@pytest.mark.parametrize('arguments', [[], ['x.pth', '--artifact', 'x']])
def test_a_checkpoint_or_an_artifact_is_evaluated(refuse_in_a_line, arguments):
    assert 'name a checkpoint, or an artifact' in refuse_in_a_line('test', SHAPES, *arguments)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['--artifact', 'none'], '--artifact none: no'),
        (['--artifact', 'none', '--deploy'], '--deploy: an artifact is fused already'),
        (['x.pth', '--threads', '1'], '--threads goes with --artifact'),
        (['x.pth', '--show-dir', SHAPES], 'nothing can be written there'),
    ],
)
def test_an_artifact_that_cannot_be_evaluated(refuse_in_a_line, tmp_path, arguments, words):
    assert words in refuse_in_a_line('test', SHAPES, *arguments)
    assert not (tmp_path / 'data').exists()  # refused before any work


def test_testing_loads_the_checkpoint_and_nothing_else(settle, weights, tmp_path):
    options = ['--cfg-options', 'resume=True', 'model.backbone.init_cfg.type=Pretrained']
    cfg = settle('test', SHAPES, weights, '--deploy', '--show-dir', 'pictures', *options)
    assert (cfg.load_from, cfg.resume) == (weights, False)
    assert 'init_cfg' not in cfg.model.backbone
    assert cfg.custom_hooks[-1].type == 'DenseFuseHook'
    assert cfg.default_hooks.visualization.draw
    assert cfg.default_hooks.visualization.test_out_dir == str(tmp_path / 'pictures')
    cfg = settle('test', SHAPES, '--work-dir', 'w', weights)
    assert cfg.load_from == weights
    assert 'DenseFuseHook' not in [hook.type for hook in cfg.custom_hooks]
    assert 'draw' not in cfg.default_hooks.visualization


def test_pictures_are_drawn_by_the_hook_that_names_them_apart(settle, weights):
    old = ['--cfg-options', 'default_hooks.visualization.type=DetVisualizationHook']
    hook = settle('test', SHAPES, weights, '--show-dir', 'pictures', *old).default_hooks.visualization
    assert hook == {'type': 'DensePicturesHook', 'draw': True, 'test_out_dir': str(Path('pictures').absolute())}


def test_a_work_dir_is_tested_with_its_config(settle, work_dir):
    """The run does not write into the work dir, or it would overwrite the config of the training."""
    cfg = settle('test', str(work_dir))
    assert cfg.load_from == str(work_dir / 'epoch_1.pth')
    assert cfg.model.backbone.arch == 'm0_6'
    assert cfg.work_dir == str(Path('work_dirs') / work_dir.name)


def test_scores_and_their_analysis_are_written_beside_each_other(settle, weights, tmp_path):
    hook = settle('test', SHAPES, weights, '--work-dir', 'w').default_hooks.analysis
    assert hook.folder == str(tmp_path / 'w/val')  # the shapes have no test split
    assert hook.subject == 'weights.pth on val'
    hook = settle('test', SHAPES, weights, '--show-dir', 'pictures', '--deploy').default_hooks.analysis
    assert hook.folder == str(tmp_path / 'pictures')
    assert hook.subject == 'weights.pth on val, fused'


def test_another_split_is_tested_with_its_ground_truth(settle, weights, refuse_in_a_line):
    options = ['--split', 'train', '--size', '128', '--batch', '3', '--work-dir', 'w']
    cfg = settle('test', SHAPES, weights, *options, '--cfg-options', 'test_dataloader.num_workers=1')
    assert cfg.default_hooks.analysis.folder.endswith('w/train')
    assert cfg.test_evaluator[0].ann_file == 'data/shapes/annotations/instances_train2017.json'
    assert cfg.test_dataloader.dataset.ann_file == 'annotations/instances_train2017.json'
    assert (cfg.test_dataloader.batch_size, cfg.test_dataloader.num_workers) == (3, 1)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (128, 128)
    assert 'it has train, val' in refuse_in_a_line('test', SHAPES, weights, '--split', 'test')
