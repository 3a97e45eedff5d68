"""A training step: how long its parts take, what memory it needs, whether its gradients are right.

The yardstick is the *plain form*, where every branch and every batch norm is an operation of its own: timm's network
with the same weights.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from repvit_dense.benchmark.timing import Stopwatch, Subject

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from repvit_dense.benchmark.subjects import Setting, Training


def subject(name: str, training: 'Training', setting: 'Setting') -> Subject:
    """A step by part: forward, backward, optimiser."""
    import torch

    watch = Stopwatch(torch.device(setting.device))
    loss = torch.compile(training.loss) if setting.compiled else training.loss

    def call():
        with watch.part('forward'), setting.autocast():
            value = loss()
        with watch.part('backward'):
            value.backward()
        with watch.part('optimizer'):
            training.optimizer.step()
            training.optimizer.zero_grad()
        return watch.read()

    return Subject(name, call)


def memory(training: 'Training') -> dict[str, int]:
    """Bytes of one step: `saved_bytes`, and `peak_bytes`, the most that was allocated above what was before."""
    saved = saved_bytes(training.model, training.loss)
    peak = peak_bytes(lambda: training.loss().backward(), next(training.model.parameters()).device)
    training.optimizer.zero_grad()
    return {'saved_bytes': saved, 'peak_bytes': peak}


def saved_bytes(network: 'nn.Module', forward: 'Callable[[], object]') -> int:
    """Memory that `forward()` keeps for its backward: the distinct storages, the network's own tensors left out."""
    from torch.autograd.graph import saved_tensors_hooks

    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # stays alive until the result goes, so no address is used twice

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        _result = forward()
    return sum(size for address, size in saved.items() if address not in own)


def peak_bytes(call: 'Callable[[], object]', device: 'torch.device') -> int:
    """The most that torch had allocated during `call()`, above what it had before."""
    import torch

    if device.type == 'cuda':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == '[memory]':
            now += event.nbytes()
            peak = max(peak, now)
    return peak


# --- RepViT against its plain form ------------------------------------------------------------------------------------


def twins(arch: str, frozen: bool = True) -> 'tuple[nn.Module, nn.Module]':
    """Our backbone and timm's with the same random weights, in training mode.

    Args:
        frozen: in both, every batch norm stays on its running statistics.
    """
    import timm
    import torch

    from repvit_dense.backbones.repvit import ARCHS, RepViT
    from repvit_dense.checkpoints.layouts import convert

    dims = ARCHS[arch]
    # Any of timm's variants will do: its dimensions are replaced (timm lacks m0_6).
    plain = timm.create_model('repvit_m1_1', features_only=True, embed_dim=dims['embed_dims'], depth=dims['depths'])
    for name, parameter in plain.named_parameters():
        if name.endswith('bn.weight'):  # a fresh residual branch is multiplied by 0 and would get no gradient
            torch.nn.init.uniform_(parameter, 0.3, 0.7)
    merged = RepViT(arch, norm_eval=frozen)
    merged.load_state_dict(convert(plain.state_dict(), to='ours'))
    return merged.train(), plain.train(not frozen)


def training_step(network: 'nn.Module', images: 'Tensor', autocast=nullcontext()) -> None:  # noqa: B008  it does nothing
    """Forward, in the context `autocast`, and backward; the gradients of `mean_squares` stay in the parameters."""
    network.zero_grad()
    with autocast:
        loss = mean_squares(network(images))
    loss.backward()


def mean_squares(features: 'Iterable[Tensor]') -> 'Tensor':
    """The sum of the features' mean squares, with gradients in the layout of each; that of `mean()` has another."""
    return sum(feature.square().sum() / feature.numel() for feature in features)


def gradient_error(network: 'nn.Module', exact: 'nn.Module') -> float:
    """Largest error of any parameter's gradient, relative to that parameter's largest.

    Args:
        network: the plain form or ours, after a training step.
        exact: the plain form with the same weights, after the same step in float64.
    """
    expected, own = _gradients(exact), _gradients(network)
    return max(((own[name] - expected[name]).abs().max() / expected[name].abs().max()).item() for name in expected)


def _gradients(network: 'nn.Module') -> 'dict[str, Tensor]':
    """The parameters' gradients in float64, under the names of our layout."""
    from repvit_dense.checkpoints.layouts import convert

    gradients = {name: parameter.grad.double() for name, parameter in network.named_parameters()}
    ours = convert(network.state_dict() | gradients, to='ours')
    return {name: tensor for name, tensor in ours.items() if not name.endswith(('_mean', '_var', '_tracked'))}


def statistics_error(network: 'nn.Module', plain: 'nn.Module') -> float:
    """Largest difference of a running mean, in running deviations, or of a running variance, relative to it."""
    from repvit_dense.checkpoints.layouts import convert

    expected, own = convert(plain.state_dict(), to='ours'), network.state_dict()
    errors = []
    for key, variance in expected.items():
        if key.endswith('running_var'):
            mean = key.replace('running_var', 'running_mean')
            errors.append(((own[key] - variance) / variance).abs().max().item())
            errors.append(((own[mean] - expected[mean]) / variance.sqrt()).abs().max().item())
    return max(errors)
