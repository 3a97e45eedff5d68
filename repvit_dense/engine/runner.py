"""mmengine's Runner with safe, strict checkpoint loading and whole-file checkpoint writing, on GPUs and CPUs."""

import os
from pathlib import Path

import torch
from mmengine.dist import is_main_process, master_only
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from repvit_dense.checkpoints.layouts import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError, read, use_safe_loading
from repvit_dense.compat import distributed
from repvit_dense.memory import no_collector

# What training cannot go on without.
STATE = ('meta', 'message_hub', 'optimizer')


class DenseRunner(Runner):
    """Loads through `repvit_dense.checkpoints.layouts` and writes checkpoints to a temporary name first.

    Under a launcher live batch norms are synchronized. Processes on CPUs talk through gloo, whatever the config says.
    """

    def __init__(self, *args, **kwargs):
        use_safe_loading()
        super().__init__(*args, **kwargs)

    def train(self):
        return self._run(super().train)

    def val(self):
        return self._run(super().val)

    def test(self):
        return self._run(super().test)

    def setup_env(self, env_cfg):
        if self.distributed:
            dist_cfg = {**env_cfg.get('dist_cfg', {}), **distributed.fresh_store()}
            if not torch.cuda.is_available():
                distributed.allow_cpu()
                dist_cfg['backend'] = 'gloo'
            env_cfg = {**env_cfg, 'dist_cfg': dist_cfg}
        super().setup_env(env_cfg)

    @staticmethod
    def build_dataloader(*args, **kwargs):
        with no_collector():  # reading a million annotations makes nothing but what is kept
            return Runner.build_dataloader(*args, **kwargs)

    def wrap_model(self, model_wrapper_cfg, model):
        if self.distributed and not is_model_wrapper(model):
            distributed.synchronize(model)
            if not torch.cuda.is_available():  # mmengine would name a GPU
                model_wrapper_cfg = {'broadcast_buffers': False, **(model_wrapper_cfg or {}), 'device_ids': None}
        return super().wrap_model(model_wrapper_cfg, model)

    def _run(self, run):
        try:
            return run()
        finally:
            self.call_hook('on_exit')  # also after an error, unlike mmengine's `after_run`

    def load_checkpoint(self, filename, map_location='cpu', strict=True, revise_keys=()):
        checkpoint = read(filename, map_location)
        lacking = [key for key in STATE if key not in checkpoint]
        if self._resume and lacking:
            raise CheckpointError(
                f'{filename}: training cannot go on from here, the file holds weights but no {", ".join(lacking)}. '
                'Resume from the last checkpoint of a run (epoch_N.pth), or start anew with these weights: '
                f'--cfg-options load_from={filename}'
            )
        if self._resume and checkpoint['meta'].get('world_size', self.world_size) != self.world_size:
            raise CheckpointError(
                f'{filename}: written by {checkpoint["meta"]["world_size"]} processes, and now there is '
                f'{self.world_size}; the batches would be others. Start as many to go on'
            )
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        try:
            load_checkpoint(model, checkpoint)
        except CheckpointError as error:
            raise CheckpointError(f'{filename}: {error}') from None
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def resume(self, filename, *args, **kwargs) -> None:
        super().resume(filename, *args, **kwargs)
        self.set_last_checkpoint(filename)
        # The order of the data was drawn from this start's seed; the batches to pass over are those of the first start.
        loader = self.train_dataloader
        for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
            if hasattr(sampler, 'seed') and not self._randomness_cfg.get('diff_rank_seed'):
                sampler.seed = self.seed

    def save_checkpoint(self, out_dir, filename, *args, meta=None, **kwargs) -> None:
        partial = f'{filename}.partial'
        meta = {**(meta or {}), 'world_size': self.world_size}
        super().save_checkpoint(out_dir, partial, *args, meta=meta, **kwargs)
        if is_main_process():
            _publish(Path(out_dir, partial), Path(out_dir, filename))

    def save_resumable(self, filename: str, iterations: int) -> Path:
        """Save after so many iterations, in the middle of an epoch too, as what `--resume` goes on from."""
        self.save_checkpoint(self.work_dir, filename, meta={'epoch': self.epoch, 'iter': iterations})
        path = Path(self.work_dir, filename)
        self.set_last_checkpoint(path)
        return path

    @master_only
    def set_last_checkpoint(self, path: str | Path | None) -> None:
        """Name what `--resume` goes on from; None: nothing yet."""
        pointer = Path(self.work_dir, 'last_checkpoint')
        if path is None:
            pointer.unlink(missing_ok=True)
            return
        partial = pointer.with_suffix('.partial')
        partial.write_text(str(path))
        _publish(partial, pointer)


def _publish(partial: Path, path: Path) -> None:
    """Rename a file that is written; it lies on the disk under its name, whole, also when the power fails next."""
    _to_disk(partial)
    partial.replace(path)
    if os.name == 'posix':  # elsewhere a folder cannot be opened
        _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
