"""The runner writes whole checkpoints, loads them strictly and never executes code from them."""

import gc
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DATASETS
from mmengine.runner import CheckpointLoader, find_latest_checkpoint

from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.checkpoints.work_dir import last_checkpoint
from repvit_dense.engine.runner import DenseRunner

ITERATIONS = 8
ONE_EPOCH = {'type': 'DenseEpochLoop', 'max_epochs': 1}


class Harmful:
    """An object whose unpickling creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trained(tmp_path, toy):
    """Train one epoch; return the work dir."""
    toy(tmp_path / 'trained', train_cfg=ONE_EPOCH).train()
    return tmp_path / 'trained'


def edited(path, function):
    """Change a copy of a checkpoint with `function`; return its path."""
    content = torch.load(path, weights_only=False)
    function(content)
    other = path.with_name('edited.pth')
    torch.save(content, other)
    return str(other)


# --- writing ---


def test_an_error_in_torch_save_leaves_the_old_file(trained, toy, monkeypatch):
    old = (trained / 'epoch_1.pth').read_bytes()

    def fail(*args, **kwargs):
        raise RuntimeError('cannot be pickled')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(RuntimeError, match='cannot be pickled'):
        toy(trained, train_cfg=ONE_EPOCH).train()
    assert (trained / 'epoch_1.pth').read_bytes() == old


def test_a_half_written_file_is_not_taken_for_a_checkpoint(trained):
    """A killed process leaves its temporary file behind."""
    (trained / 'epoch_2.pth.partial').write_bytes(b'half')
    assert find_latest_checkpoint(str(trained)) == last_checkpoint(trained) == str(trained / 'epoch_1.pth')


def test_a_finished_save_leaves_no_other_file(trained):
    assert sorted(path.name for path in trained.glob('*.pth*')) == ['best_toy_mAP_epoch_1.pth', 'epoch_1.pth']


# --- loading ---


def test_weights_are_loaded(trained, toy, tmp_path):
    expected = torch.load(trained / 'epoch_1.pth', weights_only=False)['state_dict']
    runner = toy(tmp_path / 'new', load_from=str(trained / 'epoch_1.pth'))
    assert not torch.equal(runner.model.out.weight, expected['out.weight'])
    runner.test()
    assert all(torch.equal(value, expected[key]) for key, value in runner.model.state_dict().items())
    assert runner.iter == 0


def test_weights_are_loaded_into_a_wrapped_model(trained, toy, tmp_path):
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = MMDistributedDataParallel(toy(tmp_path / 'model').model)
        toy(tmp_path / 'new', model=wrapped, load_from=str(trained / 'epoch_1.pth')).test()
    finally:
        torch.distributed.destroy_process_group()
    expected = torch.load(trained / 'epoch_1.pth', weights_only=False)['state_dict']
    assert torch.equal(wrapped.module.out.weight, expected['out.weight'])


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda c: c['state_dict'].pop('out.bias'), ['out.bias']),
        (lambda c: c['state_dict'].update(extra=torch.zeros(1)), ['extra']),
        (lambda c: c['state_dict'].update({'out.weight': torch.zeros(2, 4, 1, 1)}), ['out.weight', '2, 4', '1, 4']),
    ],
)
@pytest.mark.parametrize('resume', [False, True])
def test_weights_of_another_model_are_refused(trained, toy, tmp_path, change, words, resume):
    file = edited(trained / 'epoch_1.pth', change)
    with pytest.raises(CheckpointError) as refused:
        toy(tmp_path / 'new', load_from=file, resume=resume).train()
    assert all(word in str(refused.value) for word in [file, *words])


@pytest.mark.parametrize(
    'change, word',
    [
        (lambda c: c.pop('optimizer'), 'optimizer'),  # as in best_*.pth
        (lambda c: [c.pop(key) for key in list(c) if key != 'state_dict'], 'meta, message_hub, optimizer'),
    ],
)
def test_weights_alone_cannot_be_resumed_from(trained, toy, tmp_path, change, word):
    file = edited(trained / 'epoch_1.pth', change)
    with pytest.raises(CheckpointError, match=word) as refused:
        toy(tmp_path / 'new', load_from=file, resume=True).train()
    assert f'--from {file}' in str(refused.value)
    toy(tmp_path / 'start', load_from=file, train_cfg=ONE_EPOCH).train()  # starting from them works


def test_averaged_weights_resume(tmp_path, toy):
    """mmengine's EMA hook swaps two sets of weights in the checkpoint, so it must run before the model is loaded."""
    ema = {'type': 'EMAHook', 'momentum': 0.1}
    whole = toy(tmp_path / 'whole', hooks=[ema])
    whole.train()
    toy(tmp_path / 'half', hooks=[ema], train_cfg=ONE_EPOCH).train()
    rest = toy(tmp_path / 'half', hooks=[ema], resume=True)
    rest.train()
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in rest.model.state_dict().items())
    losses = [runner.message_hub.get_scalar('train/loss').data[0].tolist() for runner in (whole, rest)]
    assert losses[0] == losses[1]


# --- harm ---


def test_a_config_in_a_checkpoint_is_not_executed(trained, toy, tmp_path):
    trap = tmp_path / 'trap'
    text = f'import pathlib\npathlib.Path({str(trap)!r}).touch()\ngpu_ids = [0]'
    Config.fromstring(text, '.py')
    assert trap.exists()  # as when mmengine itself resumes
    trap.unlink()
    file = edited(trained / 'epoch_1.pth', lambda c: c['meta'].update(config=text))
    runner = toy(tmp_path / 'new', load_from=file, resume=True)
    runner.train()
    assert runner.iter == 2 * ITERATIONS
    assert not trap.exists()


@pytest.mark.parametrize('resume', [False, True])
@pytest.mark.parametrize('save', [torch.save, lambda content, path: Path(path).write_bytes(pickle.dumps(content))])
def test_a_harmful_file_is_refused(trained, toy, tmp_path, save, resume):
    trap = tmp_path / 'trap'
    content = torch.load(trained / 'epoch_1.pth', weights_only=False)
    content['meta']['harmful'] = Harmful(trap)
    pickle.loads(pickle.dumps(content))
    assert trap.exists()
    trap.unlink()
    file = tmp_path / 'harmful.pth'
    save(content, file)
    with pytest.raises(CheckpointError, match='harmful.pth'):
        toy(tmp_path / 'new', load_from=str(file), resume=resume).train()
    assert not trap.exists()


class Load(Hook):
    """Load a checkpoint before training as a stock backbone does, through mmengine's CheckpointLoader."""

    def __init__(self, path):
        self.path = path

    def before_train(self, runner):
        CheckpointLoader.load_checkpoint(self.path)


def test_loading_by_mmengine_is_safe_during_a_run(toy, tmp_path):
    trap = tmp_path / 'trap'
    file = tmp_path / 'harmful.pth'
    torch.save({'state_dict': {}, 'x': Harmful(trap)}, file)
    with pytest.raises(CheckpointError, match='harmful.pth'):
        toy(tmp_path / 'new', hooks=[Load(str(file))]).train()
    assert not trap.exists()


def test_the_garbage_collector_is_off_while_a_data_set_is_read():
    class Reading(torch.utils.data.Dataset):
        def __init__(self):
            self.collected = gc.isenabled()

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return index

    DATASETS.register_module(module=Reading, force=True)
    sampler = {'type': 'DefaultSampler', 'shuffle': False}
    loader = DenseRunner.build_dataloader({'batch_size': 1, 'dataset': {'type': 'Reading'}, 'sampler': sampler})
    assert not loader.dataset.collected
    assert gc.isenabled()
