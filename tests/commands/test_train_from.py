"""`train --from`: the weights that a training starts from."""

import shutil
from pathlib import Path

import pytest
import torch

SHAPES = 'repvit_maskrcnn_shapes'


@pytest.fixture
def trained(work_dir, tmp_path):
    """Return the name of a copy of the trained work dir, which has a best checkpoint too, in the working directory."""
    shutil.copytree(work_dir, tmp_path / 'trained')
    shutil.copy(tmp_path / 'trained' / 'epoch_1.pth', tmp_path / 'trained' / 'best_coco_segm_mAP_epoch_1.pth')
    return 'trained'


def test_the_best_checkpoint_of_a_work_dir_replaces_published_weights(settle, trained):
    cfg = settle('train', SHAPES, '--from', trained)
    assert cfg.weights == 'trained/best_coco_segm_mAP_epoch_1.pth'
    assert cfg.get('load_from') is None
    cfg = settle('train', 'repvit_retinanet_coco', '--backbone', 'm0_6', '--data', 'shapes', '--from', trained)
    assert 'init_cfg' not in cfg.model.backbone


def test_the_same_command_with_resume(settle, trained):
    """A training continues from its last checkpoint; without one it starts from the weights."""
    arguments = 'train', SHAPES, '--from', trained, '--resume', '--work-dir'
    cfg = settle(*arguments, trained)
    assert (cfg.load_from, cfg.resume) == (str(Path(trained, 'epoch_1.pth')), True)
    cfg = settle(*arguments, 'empty')
    assert (cfg.get('load_from'), cfg.resume) == (None, False)
    assert cfg.weights == 'trained/best_coco_segm_mAP_epoch_1.pth'


def test_a_work_dir_is_resumed_in_its_place(settle, trained):
    cfg = settle('train', trained, '--resume')
    assert (cfg.work_dir, cfg.load_from) == (trained, str(Path(trained, 'epoch_1.pth')))


@pytest.mark.parametrize('data', [(), ('--data', 'shapes')])
def test_a_new_training_with_the_config_of_a_resumed_one(settle, trained, data):
    """It does not continue the other training, and writes nothing into its folder."""
    file = Path(trained, f'{SHAPES}.py')
    file.write_text(f'{file.read_text()}\nresume = True\nload_from = "{trained}/epoch_1.pth"\nwork_dir = "{trained}"\n')
    cfg = settle('train', trained, '--from', trained, *data)
    assert (cfg.resume, cfg.load_from) == (False, None)
    assert cfg.weights
    assert Path(cfg.work_dir) == Path('work_dirs', '--'.join([trained, *data[1:]]))


def test_weights_that_are_named_twice(refuse_in_a_line, trained):
    message = refuse_in_a_line('train', SHAPES, '--from', trained, '--cfg-options', 'weights=a.pth')
    assert '--from sets the same' in message


def test_it_does_not_go_with_load_from(refuse_in_a_line, trained):
    message = refuse_in_a_line('train', SHAPES, '--from', trained, '--cfg-options', f'load_from={trained}')
    assert 'load_from = trained and weights = trained/best_coco_segm_mAP_epoch_1.pth (--from)' in message


def test_an_artifact_is_refused(refuse_in_a_line, tmp_path):
    (tmp_path / 'exported').mkdir()
    (tmp_path / 'exported' / 'manifest.json').write_text('{}')
    assert 'an artifact cannot be trained' in refuse_in_a_line('train', SHAPES, '--from', 'exported')


@pytest.mark.parametrize('name', ['none.pth', 'repvit_m1_1_cocoo.pth', 'https://'])
def test_a_name_of_nothing(refuse_in_a_line, tmp_path, name):
    message = refuse_in_a_line('train', SHAPES, '--from', name)
    assert name in message
    assert not (tmp_path / 'work_dirs').exists()


def test_weights_that_do_not_fit_are_refused_before_data_is_drawn(refuse, trained, tmp_path):
    message = refuse('train', SHAPES, '--backbone', 'm0_9', '--from', trained)
    assert 'look like m0_6' in message
    assert '--backbone m0_6' in message
    assert not (tmp_path / 'work_dirs').exists()


def test_a_refused_checkpoint_of_other_classes_leads_to_it(refuse, trained):
    classes = "metainfo.classes=('circle','square')"
    options = [f'{split}_dataloader.dataset.{classes}' for split in ('train', 'val', 'test')]
    assert 'train CONFIG --data DIR --from CHECKPOINT' in refuse('test', SHAPES, trained, '--cfg-options', *options)


def test_published_weights_that_cannot_be_had_say_how_to_go_on(refuse, tmp_path):
    torch.save({'a': torch.zeros(1)}, tmp_path / 'a.pth')
    (tmp_path / 'a.pth').write_bytes((tmp_path / 'a.pth').read_bytes()[:100])
    options = ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=a.pth']
    message = refuse('train', SHAPES, '--cfg-options', *options)
    assert 'a.pth: truncated' in message
    assert 'start from random weights: --offline, or from another model: --from WEIGHTS' in message
