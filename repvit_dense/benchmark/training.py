"""Measure a training step: the time of its parts, its memory and the error of its gradients.

RepViT is compared with its *plain form*: timm's network with the same weights, which runs every branch and every batch
norm as an operation of its own.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.benchmark.timing import Stopwatch, TimedCall

if TYPE_CHECKING:
    import torch
    from mmengine.optim import OptimWrapper
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from repvit_dense.benchmark.workload import Workload


class TrainingStep(NamedTuple):
    """A network in training mode, the loss on one batch, and the optimiser."""

    model: 'nn.Module'
    loss: 'Callable[[], Tensor]'
    optimizer: 'OptimWrapper | Optimizer'


def timed_step(name: str, step: TrainingStep, workload: 'Workload') -> TimedCall:
    """Return a call of one whole step with the parts forward, backward and optimizer."""
    import torch

    watch = Stopwatch(torch.device(workload.device))
    loss = torch.compile(step.loss) if workload.compiled else step.loss

    def call():
        with watch.part('forward'), workload.autocast():
            value = loss()
        with watch.part('backward'):
            value.backward()
        with watch.part('optimizer'):
            step.optimizer.step()
            step.optimizer.zero_grad()
        return watch.read()

    return TimedCall(name, call)


def step_memory(step: TrainingStep) -> dict[str, int]:
    """Return `saved_bytes` and `peak_bytes` of one forward and backward pass."""
    saved = saved_bytes(step.model, step.loss)
    peak = peak_bytes(lambda: step.loss().backward(), next(step.model.parameters()).device)
    step.optimizer.zero_grad()
    return {'saved_bytes': saved, 'peak_bytes': peak}


def saved_bytes(network: 'nn.Module', forward: 'Callable[[], object]') -> int:
    """Return the bytes that `forward()` saves for its backward pass.

    Counts each storage once and leaves out the parameters and buffers of the network.
    """
    from torch.autograd.graph import saved_tensors_hooks

    parameters = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # alive as long as the result, so that no address is reused

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        _result = forward()
    return sum(size for address, size in saved.items() if address not in parameters)


def peak_bytes(call: 'Callable[[], object]', device: 'torch.device') -> int:
    """Return the peak of PyTorch's allocated memory during `call()`, minus the memory allocated before."""
    import torch

    if device.type == 'cuda':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    current = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == '[memory]':
            current += event.nbytes()
            peak = max(peak, current)
    return peak


# --- RepViT and its plain form ----------------------------------------------------------------------------------------


def merged_and_plain(arch: str, frozen: bool = True) -> 'tuple[nn.Module, nn.Module]':
    """Return this package's RepViT and timm's with the same random weights, both in training mode.

    Args:
        arch: a key of `repvit.ARCHS`.
        frozen: keep every batch norm of both networks on its running statistics.
    """
    import timm
    import torch

    from repvit_dense.backbones.repvit import ARCHS, RepViT
    from repvit_dense.checkpoints.layouts import convert

    dims = ARCHS[arch]
    # timm has no m0_6, so the dimensions of another variant are replaced.
    plain = timm.create_model('repvit_m1_1', features_only=True, embed_dim=dims['embed_dims'], depth=dims['depths'])
    for name, parameter in plain.named_parameters():
        if name.endswith('bn.weight'):  # residual branches are initialised with weight 0 and would get no gradient
            torch.nn.init.uniform_(parameter, 0.3, 0.7)
    merged = RepViT(arch, norm_eval=frozen)
    merged.load_state_dict(convert(plain.state_dict(), to='repvit_dense'))
    return merged.train(), plain.train(not frozen)


def training_step(
    network: 'nn.Module',
    images: 'Tensor',
    autocast: AbstractContextManager = nullcontext(),  # noqa: B008  stateless
) -> None:
    """Run forward in the context `autocast`, and backward; leave the gradients of `mean_squares` in the parameters."""
    network.zero_grad()
    with autocast:
        loss = mean_squares(network(images))
    loss.backward()


def mean_squares(features: 'Iterable[Tensor]') -> 'Tensor':
    """Return the sum of the mean squares of the features.

    Unlike with `mean()`, each gradient has the memory layout of its feature.
    """
    return sum(feature.square().sum() / feature.numel() for feature in features)


def gradient_error(network: 'nn.Module', exact: 'nn.Module') -> float:
    """Return the largest absolute error of a gradient over the largest gradient of the same parameter.

    Args:
        network: RepViT or its plain form after a training step.
        exact: the plain form with the same weights after the same step in float64.
    """
    expected, actual = _gradients(exact), _gradients(network)
    return max(((actual[name] - expected[name]).abs().max() / expected[name].abs().max()).item() for name in expected)


def _gradients(network: 'nn.Module') -> 'dict[str, Tensor]':
    """Return the gradients in float64 under this package's parameter names."""
    from repvit_dense.checkpoints.layouts import convert

    gradients = {name: parameter.grad.double() for name, parameter in network.named_parameters()}
    converted = convert(network.state_dict() | gradients, to='repvit_dense')
    return {name: tensor for name, tensor in converted.items() if not name.endswith(('_mean', '_var', '_tracked'))}


def statistics_error(network: 'nn.Module', plain: 'nn.Module') -> float:
    """Return the largest relative difference of a running statistic.

    A difference of means is divided by the running standard deviation, a difference of variances by the variance.
    """
    from repvit_dense.checkpoints.layouts import convert

    expected, actual = convert(plain.state_dict(), to='repvit_dense'), network.state_dict()
    errors = []
    for key, variance in expected.items():
        if key.endswith('running_var'):
            mean = key.replace('running_var', 'running_mean')
            errors.append(((actual[key] - variance) / variance).abs().max().item())
            errors.append(((actual[mean] - expected[mean]) / variance.sqrt()).abs().max().item())
    return max(errors)
