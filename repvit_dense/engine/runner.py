"""mmengine's Runner with safe, strict checkpoint loading and atomic checkpoint writing, on GPUs and CPUs."""

from contextlib import nullcontext
from pathlib import Path

import torch
from mmengine.dist import master_only
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from repvit_dense import compat
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError, read
from repvit_dense.compat import distributed
from repvit_dense.files import replacing, write_text
from repvit_dense.memory import no_collector

# The entries of a checkpoint that training cannot be resumed without.
STATE = ('meta', 'message_hub', 'optimizer')


class DenseRunner(Runner):
    """A Runner that loads with `repvit_dense.checkpoints` and replaces a checkpoint only by a complete one.

    Its construction, `train`, `val` and `test` make the changes to other libraries that `repvit_dense.compat` lists for
    a run, and undo them when they end. Under a launcher, live batch norms are synchronised. Processes on CPUs use the
    backend gloo, whatever the config says.
    """

    def __init__(self, *args, **kwargs):
        with compat.patched(read):
            super().__init__(*args, **kwargs)

    def train(self):
        """Train; return the model."""
        self._write_config(self.work_dir)
        return self._run(super().train)

    def val(self):
        """Validate; return the metrics."""
        return self._run(super().val)

    def test(self):
        """Test; return the metrics."""
        return self._run(super().test)

    def _run(self, run):
        with compat.patched(read):
            try:
                return run()
            finally:
                self.call_hook('on_exit')  # after an error too, unlike mmengine's `after_run`

    def dump_config(self):
        """Write the config into the log folder of this run.

        Only `train` writes it into the work dir, because the config there describes the checkpoints beside it.
        """
        self._write_config(self.log_dir)

    @master_only
    def _write_config(self, folder: str) -> None:
        name = Path(self.cfg.filename).stem if self.cfg.filename else self.timestamp
        write_text(Path(folder, f'{name}.py'), self.cfg.pretty_text)

    def setup_env(self, env_cfg):
        """Start the process group, on CPUs if there is no GPU."""
        cpu = self.distributed and not torch.cuda.is_available()
        if self.distributed:
            backend = {'backend': 'gloo'} if cpu else {}
            env_cfg = {**env_cfg, 'dist_cfg': {**env_cfg.get('dist_cfg', {}), **distributed.fresh_store(), **backend}}
        with distributed.without_gpu() if cpu else nullcontext():
            super().setup_env(env_cfg)

    @staticmethod
    def build_dataloader(*args, **kwargs):
        """Build a data loader with the garbage collector off: a million new annotations contain no garbage."""
        with no_collector():
            return Runner.build_dataloader(*args, **kwargs)

    def wrap_model(self, model_wrapper_cfg, model):
        """Wrap the model for distributed training, with synchronised batch norms."""
        if self.distributed and not is_model_wrapper(model):
            distributed.synchronize(model)
            if not torch.cuda.is_available():  # mmengine would name a GPU
                model_wrapper_cfg = {'broadcast_buffers': False, **(model_wrapper_cfg or {}), 'device_ids': None}
        return super().wrap_model(model_wrapper_cfg, model)

    def load_checkpoint(self, filename, map_location='cpu', strict=True, revise_keys=()):
        """Load weights, strictly, and return the content of the checkpoint.

        Raises:
            CheckpointError: unreadable, unsafe, of another model, or not complete enough to resume from.
        """
        checkpoint = read(filename, map_location)
        if self._resume:
            self._check_resumable(filename, checkpoint)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        try:
            load_checkpoint(model, checkpoint)
        except CheckpointError as error:
            raise CheckpointError(f'{filename}: {error}') from None
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _check_resumable(self, filename, checkpoint: dict) -> None:
        missing = [key for key in STATE if key not in checkpoint]
        if missing:
            raise CheckpointError(
                f'{filename}: training cannot be resumed from this file, it holds weights but no {", ".join(missing)}. '
                'Resume from the last checkpoint of a run (epoch_N.pth), or start a new training with these weights: '
                f'--cfg-options load_from={filename}'
            )
        processes = checkpoint['meta'].get('world_size', self.world_size)
        if processes != self.world_size:
            raise CheckpointError(
                f'{filename}: written by a training with {processes} processes, but this one has {self.world_size}, '
                f'which would change the batches. Start {processes} processes to resume'
            )

    def resume(self, filename, *args, **kwargs) -> None:
        """Restore the state of a training and the order of its data."""
        super().resume(filename, *args, **kwargs)
        self.set_last_checkpoint(filename)
        # The samplers were built with this start's seed; the batches to skip are those of the first start's seed.
        loader = self.train_dataloader
        for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
            if sampler is not None and hasattr(sampler, 'seed') and not self._randomness_cfg.get('diff_rank_seed'):
                sampler.seed = self.seed

    @master_only
    def save_checkpoint(self, out_dir, filename, *args, meta=None, **kwargs) -> None:
        """Write a checkpoint; an existing file of this name is replaced only by a complete one."""
        meta = {**(meta or {}), 'world_size': self.world_size}
        with replacing(Path(out_dir, filename), reuse=True) as partial:
            super().save_checkpoint(str(partial.parent), partial.name, *args, meta=meta, **kwargs)

    def save_resumable(self, filename: str, iterations: int) -> Path:
        """Save a checkpoint that `--resume` continues from, within an epoch too; return its path.

        Args:
            filename: name of the file in the work directory.
            iterations: number of iterations that are finished.
        """
        self.save_checkpoint(self.work_dir, filename, meta={'epoch': self.epoch, 'iter': iterations})
        path = Path(self.work_dir, filename)
        self.set_last_checkpoint(path)
        return path

    @master_only
    def set_last_checkpoint(self, path: str | Path) -> None:
        """Record the checkpoint that `--resume` continues from."""
        with replacing(Path(self.work_dir, 'last_checkpoint'), reuse=True) as partial:
            partial.write_text(str(path))

    @master_only
    def set_checkpoints_aside(self) -> None:
        """Let nobody take the checkpoints of a previous training in this work dir for those of the new one.

        `last_checkpoint` is removed, and `best_NAME.pth` becomes `previous_best_NAME.pth`.
        """
        Path(self.work_dir, 'last_checkpoint').unlink(missing_ok=True)
        for path in Path(self.work_dir).glob('best_*.pth'):
            self.logger.info(f'{path}: from a previous training, renamed to previous_{path.name}')
            path.replace(path.with_name(f'previous_{path.name}'))
