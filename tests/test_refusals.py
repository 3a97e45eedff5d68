"""Command lines that cannot be run: one message, exit code 2, no trace, and nothing written."""

import pytest

SHAPES, SEGMENTOR = 'repvit_maskrcnn_shapes', 'repvit_segformer_shapes'
FILES = {
    'empty.py': '',
    'no_loaders.py': 'model = dict(type="EncoderDecoder")',
    'exits.py': 'import sys\nsys.exit()',
    'cyclic.py': "_base_ = 'cyclic.py'",
    'tag.yaml': 'model: !!python/object/apply:os.mkdir [executed]',
    'imports.json': '{"custom_imports": {"imports": ["antigravity"]}}',
    'text.txt': 'model = 1',
}


def option(text, config=SEGMENTOR):
    return ['train', config, '--cfg-options', text]


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['train', 'empty.py'], 'empty.py: has no model'),
        (['doctor', 'empty.py'], 'empty.py: has no model'),
        (['export', 'empty.py', 'text.txt', '--to', 'onnx'], 'has no model'),
        (['train', 'no_loaders.py'], 'has no train_dataloader, which training needs'),
        (['test', 'no_loaders.py', 'text.txt'], 'has no test_dataloader, which testing needs'),
        (['train', 'exits.py'], 'it ended Python, sys.exit(None)'),
        (['train', 'cyclic.py'], 'leads back to itself'),
        (['doctor', 'tag.yaml'], 'cannot be read as YAML'),
        (['train', 'imports.json'], 'custom_imports would execute code'),
        (['train', 'text.txt'], 'its name must end in .py'),
        (['train', '/dev/zero'], 'it is no regular file'),
        (['train', 'x' * 300], 'no such config file'),
        (['doctor', 'x' * 300], 'no such config file'),
        (['train', 'a\0b'], 'config a\\x00b: contains a NUL character'),
        (['train', 'repvit_maskrcnn_shape'], "did you mean 'repvit_maskrcnn_shapes'?"),
        (['train', SHAPES, '--data', 'x' * 300], 'no such folder'),
        (['train', SHAPES, '--backbone', 'm0_66'], "unknown backbone 'm0_66'; did you mean 'm0_6'"),
        (['train', SHAPES, '--local-rank', '1'], '--local-rank 1: goes with --launcher'),
        (['train', SHAPES, '--launcher', 'slurm'], 'SLURM_PROCID'),
        (['train', SHAPES, '--checkpoint-every', '9' * 5000], 'is neither a number of iterations'),
        (['benchmark', 'x' * 300], 'no config, no artifact, and unknown backbone'),
        (['benchmark', 'm0_6', '--batch', '60000'], 'more than 1,000,000,000 pixels'),
        (option('train_dataloader.batch_size=-1'), 'must be a whole number from 1'),
        (option('train_dataloader.batch_size=abc'), 'must be a number, not text'),
        (option('model.type=Nope'), "model.type = 'Nope': not registered"),
        (option('optim_wrapper.optimizer.lr=-1'), 'Invalid learning rate: -1'),
        (option('custom_hooks=5'), 'must be a list or None'),
        (option('model.decode_head.loss_decode.class_weight=[1,2]'), '12 are needed'),
        (option('randomness.seed=-1'), 'must be a whole number from 0 to 4294967295'),
        (option('train_cfg.val_interval=0'), 'at least 1'),
        (option('train_cfg=None'), 'has no train_cfg'),
        (option('work_dir=/proc/none'), 'nothing can be written there'),
        (option('model.neck.out_channel=5', SHAPES), "did you mean 'out_channels'?"),
    ],
)
def test_a_command_line_is_refused(refuse_in_a_line, tmp_path, arguments, words):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    message = refuse_in_a_line(*arguments)
    assert words in message
    assert len(message) < 4100
    assert {path.name for path in tmp_path.iterdir()} == FILES.keys()
