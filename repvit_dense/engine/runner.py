"""mmengine's Runner with safe, strict checkpoint loading and whole-file checkpoint writing."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from repvit_dense.checkpoint import load_checkpoint
from repvit_dense.safe_read import CheckpointError, read, use_safe_loading

# What training cannot go on without.
STATE = ('meta', 'message_hub', 'optimizer')


class DenseRunner(Runner):
    """Loads through `repvit_dense.checkpoint` and writes checkpoints to a temporary name first."""

    def __init__(self, *args, **kwargs):
        use_safe_loading()
        super().__init__(*args, **kwargs)

    def train(self):
        return self._run(super().train)

    def val(self):
        return self._run(super().val)

    def test(self):
        return self._run(super().test)

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
        # The order of the data was drawn from this start's seed; the batches to pass over are those of the first start.
        loader = self.train_dataloader
        for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
            if hasattr(sampler, 'seed') and not self._randomness_cfg.get('diff_rank_seed'):
                sampler.seed = self.seed

    def save_checkpoint(self, out_dir, filename, *args, **kwargs) -> None:
        partial = f'{filename}.partial'
        super().save_checkpoint(out_dir, partial, *args, **kwargs)
        if is_main_process():
            Path(out_dir, partial).replace(Path(out_dir, filename))
