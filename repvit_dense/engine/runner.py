"""mmengine's Runner with safe, strict checkpoint loading and whole-file checkpoint writing."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from repvit_dense.checkpoint import load_checkpoint, use_safe_loading


class DenseRunner(Runner):
    """Loads through `repvit_dense.checkpoint` and writes checkpoints to a temporary name first."""

    def __init__(self, *args, **kwargs):
        use_safe_loading()
        super().__init__(*args, **kwargs)

    def load_checkpoint(self, filename, map_location='cpu', strict=True, revise_keys=()):
        model = self.model.module if is_model_wrapper(self.model) else self.model
        checkpoint = load_checkpoint(model, filename, map_location)
        # mmengine's resume would run a config found here as Python; nothing from a file is executed.
        checkpoint.get('meta', {}).pop('config', None)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def save_checkpoint(self, out_dir, filename, *args, **kwargs) -> None:
        partial = f'{filename}.partial'
        super().save_checkpoint(out_dir, partial, *args, **kwargs)
        if is_main_process():
            Path(out_dir, partial).replace(Path(out_dir, filename))
