"""Test with the fused form of the model."""

import copy

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from repvit_dense.reparam import reparameterize_model


@HOOKS.register_module()
class DenseFuseHook(Hook):
    """Swap in a fused copy of the model for the time of a test run; the model being trained is never touched."""

    def before_test(self, runner) -> None:
        self._trained = runner.model
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        runner.model = reparameterize_model(copy.deepcopy(model).eval(), inplace=True)
        before, after = (sum(p.numel() for p in m.parameters()) for m in (model, runner.model))
        runner.logger.info(f'Testing in deploy form: {before:,} parameters fused to {after:,}')

    def after_test(self, runner) -> None:
        runner.model = self._trained
        del self._trained
