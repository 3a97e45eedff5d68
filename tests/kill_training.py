"""Kill a training many times, resume it with the same command, and compare it bit by bit with an undisturbed one.

    python tests/kill_training.py [--kills 20] [--seed 0]

A small Mask R-CNN learns the embedded data set at 64x64, with a data-loading worker, averaged weights and all random
parts of a recipe: order, flips, colours, dropped paths, sampled boxes. All processes of the job are killed, at
a random moment or while a checkpoint is written, equally often. A finished training is compared and the next one
starts, until the number of kills is reached. Each process is forked from this one, which has done the imports. The exit
code is 1 if a byte differs.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'  # a process with threads cannot be forked
os.environ['CUDA_VISIBLE_DEVICES'] = ''  # nor a process with a GPU, on which RoIAlign is not deterministic
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

CONFIG = """
_base_ = ['{root}/configs/repvit_maskrcnn_shapes.py']
data_root = '{folder}/shapes/'
embedded_data = dict(root=data_root, num_train=16, num_val=2, size=(64, 64))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    num_workers=1, persistent_workers=True, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 16, 24, 32), depths=(1, 2, 1, 2)), drop_path_rate=0.2),
    neck=dict(in_channels=[8, 16, 24, 32]),
)
train_cfg = dict(max_epochs=3)
custom_hooks = [
    dict(type='DenseNonFiniteLossHook'),
    dict(type='DenseSaveOnSignalHook'),
    dict(type='EMAHook', momentum=0.05, update_buffers=True),
]
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(vis_backends=vis_backends)
"""
LAST = 'epoch_3.pth'


class Job:
    """One training with its own work dir; `start` runs the same command each time."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.work_dir = folder, folder / name
        self.log = folder / f'{name}.txt'

    def start(self) -> None:
        self.process = multiprocessing.get_context('fork').Process(target=self._train)
        self.process.start()

    def _train(self) -> None:
        os.setpgid(0, 0)
        for stream in (1, 2):
            os.dup2(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        command = [str(self.folder / 'config.py'), '--work-dir', str(self.work_dir), '--seed', '0']
        from repvit_dense import cli

        cli.main('train', [*command, '--deterministic', '--resume', '--checkpoint-every', '2'])

    def ended(self) -> bool:
        """Return whether the training has finished; exit the script if it failed."""
        if self.process.exitcode:
            sys.exit(f'the training failed:\n{self.log.read_text()[-5000:]}')
        return self.process.exitcode == 0

    def wait(self) -> None:
        self.process.join()
        self.ended()

    def kill(self) -> bool:
        """Kill all processes of the job; return whether a checkpoint was being written."""
        with suppress(ProcessLookupError):  # the process group does not exist yet
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        return bool(self.partials())

    def partials(self) -> set[tuple[str, int]]:
        """Return name and inode of unfinished checkpoints; a new file has another inode."""
        return {(path.name, path.stat().st_ino) for path in self.work_dir.glob('*.pth.partial')}


def train_and_kill(job: Job, kills: int, longest: float, draws: random.Random) -> tuple[int, int, int]:
    """Kill the job up to `kills` times, then let it finish; return starts, kills, and kills during a write."""
    starts = killed = in_write = 0
    while True:
        for path in job.work_dir.glob('*.partial'):
            path.unlink()
        job.start()
        starts += 1
        if killed == kills:
            job.wait()
        elif not _ends_before_kill(job, longest, draws):
            in_write += job.kill()
            killed += 1
            continue
        return starts, killed, in_write


def _ends_before_kill(job: Job, longest: float, draws: random.Random) -> bool:
    """Wait until the job is to be killed; return True if it finishes before.

    Args:
        job: a running training.
        longest: latest random moment, in seconds.
        draws: generator of the moments.
    """
    write = draws.choice((0, 0, 1, 2))  # kill during the first or second write, or 0 for a random moment
    moment = time.monotonic() + draws.uniform(0, longest)
    while not job.ended():
        if write and job.partials():
            write -= 1
            if not write:
                time.sleep(draws.uniform(0, 0.003))
                return False
            while job.partials() and not job.ended():
                time.sleep(0.0005)
        if not write and time.monotonic() > moment:
            return False
        time.sleep(0.0005)
    return True


def differing_bytes(path: Path, other: Path) -> tuple[int, int]:
    """Compare weights, averaged weights and optimiser state; return the numbers of differing and of all bytes."""
    differ = total = 0
    for a, b in zip(*map(_tensors, (path, other)), strict=True):
        differ += int((a != b).sum())
        total += a.numel()
    return differ, total


def _tensors(path: Path) -> list:
    import torch

    content = torch.load(path, weights_only=False)  # written by this script
    states = [content['state_dict'], content['ema_state_dict'], *content['optimizer']['state'].values()]
    values = [value for state in states for value in state.values()]
    return [value.contiguous().reshape(-1).view(torch.uint8) for value in values]


def main() -> int:
    """Kill and compare trainings; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=20, metavar='N')
    parser.add_argument('--seed', type=int, default=0, help='seed of the moments')
    args = parser.parse_args()
    for module in (
        'repvit_dense.engine.runner',
        'mmdet.apis',
    ):  # in this order: mmdet needs the ops that the package provides
        import_module(module)

    draws = random.Random(args.seed)
    starts = killed = in_write = trainings = differ = total = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / 'config.py').write_text(CONFIG.format(root=ROOT, folder=folder))
        whole = Job(folder, 'whole')
        began = time.monotonic()
        whole.start()
        whole.wait()
        duration = time.monotonic() - began
        print(f'undisturbed: {duration:.1f} s', flush=True)
        while killed < args.kills:
            job = Job(folder, f'killed{trainings}')
            counts = train_and_kill(job, args.kills - killed, duration / 2, draws)
            starts, killed, in_write = (a + b for a, b in zip((starts, killed, in_write), counts, strict=True))
            trainings += 1
            result = differing_bytes(whole.work_dir / LAST, job.work_dir / LAST)
            differ, total = differ + result[0], total + result[1]
            print(f'training {trainings}: {counts[1]} kills, {result[0]} of {result[1]} bytes differ', flush=True)
    print(f'{killed} kills, {in_write} of them during a write; {starts} starts, {trainings} trainings to the end')
    print(f'{differ} of {total} bytes differ')
    return 1 if differ else 0


if __name__ == '__main__':
    sys.exit(main())
