"""mmengine's Runner with safe, strict checkpoint loading and atomic checkpoint writing, on GPUs and CPUs."""

import logging
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from repvit_dense import compat
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError, read
from repvit_dense.checkpoints.work_dir import SAFETENSORS, last_checkpoint
from repvit_dense.checkpoints.writing import write
from repvit_dense.compat import distributed, quiet
from repvit_dense.config.weights import start_from
from repvit_dense.engine.failures import explain
from repvit_dense.engine.per_class import observe
from repvit_dense.engine.plain import plain, restore_histories
from repvit_dense.engine.provenance import Record
from repvit_dense.engine.resumable import set_last_checkpoint
from repvit_dense.engine.same_run import check_same_run, data_of
from repvit_dense.engine.samples import end_failed_workers, name_errors
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, replacing, write_text
from repvit_dense.memory import no_collector

# The entries of a checkpoint that training cannot be resumed without.
STATE = ('meta', 'message_hub', 'optimizer')


class DenseRunner(Runner):
    """A Runner that loads with `repvit_dense.checkpoints` and replaces a checkpoint only by a complete one.

    Its construction, `train`, `val` and `test` make the changes to other libraries that `repvit_dense.compat` lists for
    a run, and undo them when they end. Under a launcher, live batch norms are synchronised. Processes on CPUs use the
    backend gloo, whatever the config says.
    """

    point = ''  # the name of the last hook point

    def __init__(self, *args, **kwargs):
        self._obsolete = []  # checkpoints that the next one replaces
        self.record = Record()  # of how the model is made
        with compat.patched(read):
            try:
                super().__init__(*args, **kwargs)
            except OSError as error:  # the work dir or the log
                raise InputError(f'{error.filename or self.work_dir}: {error.strerror}') from error

    def train(self):
        """Train; return the model. The best weights, else the last ones, are also in `model.safetensors`."""
        model = self._run(super().train)
        self._write_safetensors()
        return model

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
            except Exception as error:
                self.call_hook('on_error', error=error)
                reason = explain(error, self)
                if reason:
                    raise InputError(reason) from error
                raise
            finally:
                self.call_hook('on_exit')  # after an error too, unlike mmengine's `after_run`

    @master_only
    def _write_safetensors(self) -> None:
        source = self.message_hub.runtime_info.get('best_ckpt') or last_checkpoint(self.work_dir)
        if source and is_file(source):
            self.logger.info(f'Safetensors: {write(read(source), Path(self.work_dir, SAFETENSORS))}')

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
        """Build a data loader whose errors name the file of the sample.

        The garbage collector is off: a million new annotations contain no garbage.
        """
        with no_collector():
            loader = Runner.build_dataloader(*args, **kwargs)
        name_errors(loader)
        end_failed_workers(loader)
        return loader

    def build_evaluator(self, evaluator):
        """Build an evaluator that keeps the scores per class."""
        return observe(super().build_evaluator(evaluator))

    def build_logger(self, *args, **kwargs):
        """Build the logger; a log file that cannot be written ends the run, a terminal that is gone does not."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            handler.handleError = partial(_on_log_error, logger, handler)
        quiet.log_to(logger)
        return logger

    def call_hook(self, fn_name, **kwargs):
        """Call all hooks, and record the hook point; a checkpoint that is about to be saved becomes plain data."""
        if fn_name != 'on_error':
            self.point = fn_name
        if fn_name == 'after_val_epoch':
            self.record.add_scores(self, kwargs.get('metrics') or {})
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_save_checkpoint':
            left_out = []
            content = kwargs['checkpoint']
            content.update(plain(dict(content), 'checkpoint', left_out))
            if left_out:
                self.logger.warning(f'Not saved, because neither plain values nor tensors: {", ".join(left_out)}')
        elif fn_name == 'before_train':
            self._keep_until_saved()
            self.record.begin(self)

    def _keep_until_saved(self) -> None:
        """Let mmengine's hook remove an old checkpoint only after the one that replaces it is complete."""
        for hook in self.hooks:
            if isinstance(hook, CheckpointHook):
                hook.file_backend.remove = lambda path: self._obsolete.append(Path(path))

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
            self._prepare_resuming(filename, checkpoint)
            self.record.go_on_from(checkpoint)
        else:
            self.record.start_from(str(filename), checkpoint)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        load_checkpoint(model, checkpoint, name=filename)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _prepare_resuming(self, filename, checkpoint: dict) -> None:
        missing = [key for key in STATE if key not in checkpoint]
        if missing:
            raise CheckpointError(
                f'{filename}: training cannot be resumed from this file, it holds weights but no {", ".join(missing)}. '
                'Resume from the last checkpoint of a run (epoch_N.pth), or start a new training with these weights: '
                f'--from {filename}'
            )
        meta = checkpoint['meta']
        check_same_run(self, str(filename), meta)
        restore_histories(checkpoint['message_hub'])
        classes = getattr(self.train_dataloader.dataset, 'metainfo', None)
        if plain(classes, '', []) == meta.get('dataset_meta'):  # mmengine compares without regard to the conversion
            meta['dataset_meta'] = classes

    def _init_model_weights(self) -> None:
        """Initialise the model, unless a checkpoint holds all of it: no published weights are downloaded in vain."""
        if self._load_from is None:
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        """Load the checkpoint; a training then writes its config into the work dir, beside its checkpoints.

        A training with `weights` in its config starts from the parts that fit of them, unless it loads a checkpoint.
        """
        super().load_or_resume()
        if isinstance(self._train_loop, BaseLoop):
            if self.cfg.get('weights') and not self._has_loaded:
                self._start_from(self.cfg.weights)
            self._write_config(self.work_dir)

    def _start_from(self, weights: str) -> None:
        model = self.model.module if is_model_wrapper(self.model) else self.model
        checkpoint = read(weights)
        text = start_from(model, self.cfg, checkpoint)
        self.record.start_from(weights, checkpoint)
        self.call_hook('after_load_checkpoint', checkpoint={'state_dict': model.state_dict()})  # for averaged weights
        self._has_loaded = True
        self.logger.info(text, extra={'screen': True})

    def resume(self, filename, *args, **kwargs) -> None:
        """Restore the state of a training and the order of its data."""
        super().resume(filename, *args, **kwargs)
        set_last_checkpoint(self, filename)
        # The samplers were built with this start's seed; the batches to skip are those of the first start's seed.
        loader = self.train_dataloader
        for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
            if sampler is not None and hasattr(sampler, 'seed') and not self._randomness_cfg.get('diff_rank_seed'):
                sampler.seed = self.seed

    @master_only
    def save_checkpoint(self, out_dir, filename, *args, meta=None, **kwargs) -> None:
        """Write a checkpoint; an existing file of this name is replaced only by a complete one."""
        about = {'world_size': self.world_size, 'data': data_of(self), 'provenance': self.record.describe(self)}
        meta = {**(meta or {}), **about}
        path = Path(out_dir, filename)
        with replacing(path, reuse=True) as partial:
            super().save_checkpoint(str(partial.parent), partial.name, *args, meta=meta, **kwargs)
        while self._obsolete:
            old = self._obsolete.pop()
            if old != path:
                old.unlink(missing_ok=True)


def _on_log_error(logger: logging.Logger, handler: logging.Handler, record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]  # logging calls this while it handles the error
    if not isinstance(error, OSError):
        logging.Handler.handleError(handler, record)
        return
    logger.removeHandler(handler)
    if isinstance(handler, logging.FileHandler):
        error.filename = handler.baseFilename
        raise error
