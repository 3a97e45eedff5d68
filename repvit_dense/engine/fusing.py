"""Test the fused form of a model."""

import copy

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from repvit_dense.reparam import reparameterize_model


@HOOKS.register_module()
class DenseFuseHook(Hook):
    """A hook that tests a fused copy of the model; the trained model itself is not changed."""

    def before_test(self, runner) -> None:
        """Replace the model by a fused copy."""
        self._trained = runner.model
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        runner.model = reparameterize_model(copy.deepcopy(model).eval(), inplace=True)
        before, after = (sum(p.numel() for p in m.parameters()) for m in (model, runner.model))
        runner.logger.info(f'Testing the fused model: {before:,} parameters fused to {after:,}')

    def after_test(self, runner) -> None:
        """Restore the trained model."""
        runner.model = self._trained
        del self._trained
