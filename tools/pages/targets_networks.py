"""Targets of RepViT and of a whole detector in PyTorch, compared with timm's RepViT with the same weights."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from repvit_dense.benchmark import timing, training
from repvit_dense.benchmark.subjects import ConfigSubject
from repvit_dense.benchmark.timing import TimedCall
from repvit_dense.benchmark.training import TrainingStep
from repvit_dense.benchmark.workload import Workload
from repvit_dense.memory import keep_freed_memory
from repvit_dense.reparam import reparameterize_model
from tools.pages.target import ARCH, PerformanceTarget, format_input, speedup

# A backbone takes seconds and the speed of a shared machine varies within them, so it is timed in more rounds.
BACKBONE_ROUNDS_FACTOR = 3
GRADIENT_DRAWS = 3  # random networks whose gradient errors are compared; they differ by a factor of two


def backbone_training(rounds: int, workload: Workload, arch: str = ARCH) -> Iterator[PerformanceTarget]:
    """Measure a training step of the backbone with frozen batch norms, as in fine-tuning, and with live ones."""
    with keep_freed_memory():  # as the command `train` does
        yield from _frozen_norms(rounds, workload, arch)
        yield from _live_norms(rounds, workload, arch)


def _frozen_norms(rounds: int, workload: Workload, arch: str) -> Iterator[PerformanceTarget]:
    merged, plain = _merged_and_plain(arch, workload)
    images = workload.images()
    name, baseline = f'backbone training step, {arch}, {format_input(workload)}, norms frozen', 'timm, norms frozen'
    yield PerformanceTarget(name, baseline, 1.5, _step_speedup(plain, merged, workload, rounds))
    saved = [training.saved_bytes(network, partial(network, images)) for network in (plain, merged)]
    yield PerformanceTarget(f'{name}: saved activations', baseline, 55, 100 * saved[1] / saved[0], '%', at_least=False)
    error = max(_gradient_error(arch, workload) for _ in range(GRADIENT_DRAWS))
    name = f'{name}, {GRADIENT_DRAWS} networks: largest relative gradient error'
    yield PerformanceTarget(name, 'float64', 1e-5, error, '', at_least=False)


def _gradient_error(arch: str, workload: Workload) -> float:
    """Return the gradient error of a network with new random weights."""
    merged, plain = _merged_and_plain(arch, workload)
    exact, images = plain.double(), workload.images()
    with _without_tf32():
        training.training_step(exact, images.double())
        training.training_step(merged, images)
    return training.gradient_error(merged, exact)


def _live_norms(rounds: int, workload: Workload, arch: str) -> Iterator[PerformanceTarget]:
    merged, plain = _merged_and_plain(arch, workload, frozen=False)
    images = workload.images()
    name, baseline = f'backbone training step, {arch}, {format_input(workload)}, norms live', 'timm, norms live'
    with _without_tf32():
        for network in (plain, merged):
            training.training_step(network, images)
    error = training.statistics_error(merged, plain)
    yield PerformanceTarget(
        f'{name}: relative difference of running statistics', baseline, 1e-6, error, '', at_least=False
    )
    yield PerformanceTarget(name, baseline, 1.1, _step_speedup(plain, merged, workload, rounds))


def backbone_inference(rounds: int, workload: Workload, arch: str = ARCH) -> Iterator[PerformanceTarget]:
    """Measure the fused backbone against timm's with every branch and norm."""
    merged, plain = (network.eval() for network in _merged_and_plain(arch, workload))
    images = workload.images()
    calls = {}
    for name, network in (('plain', plain), ('fused', reparameterize_model(merged))):
        forward = torch.compile(network) if workload.compiled else network
        calls[name] = timing.synchronized(name, partial(forward, images), workload.device)
    with torch.inference_mode(), workload.autocast():
        ratio = speedup(calls['plain'], calls['fused'], BACKBONE_ROUNDS_FACTOR * rounds)
    name = f'backbone inference, {arch}, {format_input(workload)}, fused, channels_last'
    yield PerformanceTarget(name, 'every branch and norm by itself, contiguous', 1.35, ratio)


def whole_step(rounds: int, workload: Workload, head: str = 'repvit_maskrcnn_coco') -> Iterator[PerformanceTarget]:
    """Measure a training step of Mask R-CNN on RepViT and on timm's RepViT with equal weights."""
    merged, plain = _merged_and_plain(ARCH, workload)
    subject = ConfigSubject(head, workload)
    step = subject.training(lambda model: model.backbone.load_state_dict(merged.state_dict()))
    timm_step = subject.training(lambda model: setattr(model, 'backbone', plain))
    name, baseline = f'{head} training step, {format_input(workload)}, norms frozen', "the same on timm's backbone"
    expected, loss = _loss_in_float64(timm_step), _loss_in_float64(step)
    difference = abs(loss - expected) / expected
    yield PerformanceTarget(
        f'{name}: relative difference of the loss in float64', baseline, 1e-6, difference, '', at_least=False
    )
    calls = [training.timed_step(label, _seeded(s), workload) for label, s in (('timm', timm_step), ('own', step))]
    backbone = _step_call(merged, workload.images(), workload)._replace(name='backbone')
    with keep_freed_memory():
        rows = timing.compare('', [*calls, backbone], rounds)
    yield PerformanceTarget(name, baseline, 1.0, rows[1]['speedup'])
    yield PerformanceTarget(
        f'{name}: share of the backbone', '', None, 100 * rows[2]['median'] / rows[1]['median'], '%'
    )


def _loss_in_float64(step: TrainingStep) -> float:
    """Return the loss in float64, because in fp32 rounding changes which proposals are sampled."""
    step.model.double()
    loss = _seeded(step).loss().item()
    step.model.float()
    return loss


def _seeded(step: TrainingStep) -> TrainingStep:
    """Return the step with a fixed seed before each loss, so that every step samples the same proposals."""

    def loss():
        torch.manual_seed(0)
        return step.loss()

    return step._replace(loss=loss)


def _merged_and_plain(arch: str, workload: Workload, frozen: bool = True) -> Iterator[nn.Module]:
    return (network.to(workload.device) for network in training.merged_and_plain(arch, frozen))


def _without_tf32():
    """Return a context in which convolutions on a GPU do not round their inputs to TF32."""
    return torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)


def _step_call(network: nn.Module, images: torch.Tensor, workload: Workload) -> TimedCall:
    forward = torch.compile(network) if workload.compiled else network
    name = type(network).__name__
    return timing.synchronized(
        name, lambda: training.training_step(forward, images, workload.autocast()), workload.device
    )


def _step_speedup(plain: nn.Module, merged: nn.Module, workload: Workload, rounds: int) -> float:
    images = workload.images()
    baseline, call = (_step_call(network, images, workload) for network in (plain, merged))
    return speedup(baseline, call, BACKBONE_ROUNDS_FACTOR * rounds)
