"""Which parameters weight decay leaves alone, said in one place for every backbone and head."""

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DenseNoDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, without weight decay on norms, biases, layer scales and position tables.

    Whatever has one dimension or none is exempt, and so is any parameter whose name contains one of
    `paramwise_cfg['no_decay']`. Unlike `norm_decay_mult` this also holds where a custom key, such as
    `backbone=dict(lr_mult=0.1)`, sets the learning rate of a part; every other rule of `paramwise_cfg` stays.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module=None) -> None:
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:  # a part of the model; the call for the whole model comes last
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
