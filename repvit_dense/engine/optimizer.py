"""Weight decay for all backbones and heads, with one rule for the parameters that are exempt."""

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DenseNoDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor without weight decay on norms, biases, layer scales and position tables.

    Exempt are parameters with at most one dimension, and parameters whose name contains an entry of
    `paramwise_cfg['no_decay']`. Unlike `norm_decay_mult`, the rule also applies if a custom key such as
    `backbone=dict(lr_mult=0.1)` sets the learning rate of a part. The other rules of `paramwise_cfg` are unchanged.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module=None) -> None:
        """Add one group per parameter of a module, as mmengine does, and set the weight decay."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:  # mmengine recurses into submodules; the call for the whole model ends last
            return
        tables = self.paramwise_cfg.get('no_decay', ())
        exempt = {
            parameter
            for name, parameter in module.named_parameters()
            if parameter.ndim <= 1 or any(table in name for table in tables)
        }
        for group in params:
            if group['params'][0] in exempt:
                group['weight_decay'] = 0.0
