"""Distributed training on CPUs and GPUs: synchronised batch norms, process groups without a GPU, restarted jobs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.distributed import PrefixStore, TCPStore
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize(model: nn.Module) -> None:
    """Replace the live batch norms of a model, in place, by norms with statistics over all processes.

    Norms that use running statistics in training (`norm_eval`, frozen stages) are not replaced.
    """
    model.train()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.SyncBatchNorm) or (isinstance(child, _BatchNorm) and child.training):
                child = nn.SyncBatchNorm.convert_sync_batchnorm(child)
                if not torch.cuda.is_available():
                    child.__class__ = CPUSyncBatchNorm
                setattr(module, name, child)


class CPUSyncBatchNorm(_BatchNorm):
    """A synchronised batch norm for CPUs.

    torch's SyncBatchNorm has no CPU kernel, and DistributedDataParallel refuses it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(B, C, ...)`, by the statistics of all processes in training mode."""
        if self.training:
            x = self._normalize(x)
        else:
            x = batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps)
        return self.act(self.drop(x)) if hasattr(self, 'act') else x  # norms of timm include both

    def _normalize(self, x: Tensor) -> Tensor:
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        number = all_reduce(x.new_tensor(x.numel() / x.shape[1]))  # values per channel, in all processes
        mean = all_reduce(x.sum(dims)) / number  # differentiable
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / number
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * number / (number - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(shape) + self.bias.view(shape)


@contextmanager
def without_gpu() -> Iterator[None]:
    """Let mmengine's launchers start a process group without a GPU: all of them call `torch.cuda.set_device`."""
    with patch.object(torch.cuda, 'set_device', lambda device: None):
        yield


def fresh_store() -> dict:
    """Return arguments of `init_process_group` for a job that torchrun has restarted on one machine; {} otherwise.

    torchrun uses one store for all restarts, in which torch 2.11 finds the addresses of the processes that died.
    """
    restarts = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    if restarts == '0' or os.environ['GROUP_WORLD_SIZE'] != '1':  # each machine counts its own restarts
        return {}
    store = TCPStore(os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']), is_master=False)
    numbers = {'rank': int(os.environ['RANK']), 'world_size': int(os.environ['WORLD_SIZE'])}
    return {'store': PrefixStore(f'restart {restarts}', store), **numbers}
