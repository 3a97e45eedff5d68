"""Measure one head on one backbone for docs/peers.md: sizes, latency in three forms, training step and memory."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from repvit_dense.benchmark import timing
from repvit_dense.benchmark.subjects import ConfigSubject, count_params_and_macs, timed_prediction
from repvit_dense.benchmark.timing import TimedCall
from repvit_dense.benchmark.training import TrainingStep, peak_bytes
from repvit_dense.benchmark.workload import Workload

if TYPE_CHECKING:
    from onnx import ModelProto

    from repvit_dense.exporting.graphs.base import Graph

REFERENCE = 'repvit_m1_1'  # measured in alternation with every backbone, so that ratios cancel the drift of the machine
SIZE = (512, 512)  # height and width of the input in pixels
BATCH, STEPS = 2, 2  # images of a training step; timed steps
FORMS = ('eager', 'exported', 'alone')  # 'alone' is the backbone exported by itself
OUTPUT_LAYERS = ('conv_seg', 'retina_cls')  # layers whose outputs decide how much post-processing follows


def measure(head: str, name: str, rounds: int, reference: Sequence[TimedCall]) -> dict:
    """Measure one head on one backbone.

    Returns:
        `params`, and `macs` of one image, both also with the prefix `backbone_`. For each of `FORMS` a dict of seconds:
        `own`, and `reference` for the reference in the same rounds. `step`, the seconds of the training steps, and
        `peak_bytes` of one step.
    """
    step = training_step(head, name)
    calls = inference_calls(step.model, head, name, 'own')
    seconds, parts = timing.interleave([*reference, *calls], rounds, warmup=0)  # each was called once already
    times = {
        form: {
            key: _without_preprocessing(seconds[f'{key} {form}'], parts[f'{key} {form}'])
            for key in ('own', 'reference')
        }
        for form in FORMS
    }
    counts = calls[0].counts
    del calls  # frees the fused models before a training step needs the memory
    return {**counts, **times, **measure_steps(step)}


def reference_calls(head: str) -> list[TimedCall]:
    """Return the calls that are timed in alternation with every backbone under this head."""
    return inference_calls(training_step(head, REFERENCE).model, head, REFERENCE, 'reference')


def _without_preprocessing(seconds: list[float], parts: dict[str, list[float]]) -> list[float]:
    """Subtract the pre-processing, which is the same for every backbone."""
    return [
        total - part for total, part in zip(seconds, parts.get('pre-processing', [0.0] * len(seconds)), strict=True)
    ]


def training_step(head: str, name: str) -> TrainingStep:
    """Return a training step with frozen norms in the backbone."""
    step = ConfigSubject(f'{head}@{name}', Workload(BATCH, SIZE)).training()
    step.model.backbone.norm_eval = True  # the recipes of backbones without published weights train the norms
    return step


def measure_steps(step: TrainingStep) -> dict:
    """Return the seconds of `STEPS` training steps as `step`, and the `peak_bytes` of one."""
    device = next(step.model.parameters()).device
    step.model.train()
    peak = peak_bytes(lambda: _run_step(step), device)  # also the warm-up
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        _run_step(step)
        seconds.append(time.perf_counter() - start)
    return {'step': seconds, 'peak_bytes': peak}


def _run_step(step: TrainingStep) -> None:
    step.loss().backward()
    step.optimizer.step()
    step.optimizer.zero_grad()


def inference_calls(model: nn.Module, head: str, name: str, prefix: str) -> list[TimedCall]:
    """Return a call per form in `FORMS`, of a fused copy on one image; the first has the counts."""
    from repvit_dense.exporting import folding
    from repvit_dense.reparam import reparameterize_model

    workload = Workload(1, SIZE)
    cfg = ConfigSubject(f'{head}@{name}', workload).config()
    fused = reparameterize_model(model.eval())
    for path, layer in fused.named_modules():
        if path.endswith(OUTPUT_LAYERS):  # equal outputs, hence equal post-processing, for every backbone
            nn.init.zeros_(layer.weight)
    sessions = _sessions(folding.fold_norms(copy.deepcopy(fused)), workload)
    backbone = count_params_and_macs(fused.backbone, lambda: fused.backbone(workload.images()), workload.batch)
    eager = timed_prediction(f'{prefix} eager', fused, cfg, workload)
    counts = eager.counts | {f'backbone_{key}': value for key, value in backbone.items()}
    return [
        eager._replace(counts=counts),
        *(TimedCall(f'{prefix} {form}', call) for form, call in sessions.items()),
    ]


def _sessions(model: nn.Module, workload: Workload) -> dict[str, Callable[[], None]]:
    """Export once and return calls of the whole network and of its backbone in ONNX Runtime."""
    import numpy as np
    from onnx.utils import Extractor

    from repvit_dense.exporting import formats, graphs
    from repvit_dense.exporting.formats import onnx

    graph = _GraphWithFeatures(graphs.build(model))
    with formats.silence_converters():
        proto = onnx.convert(graph, SIZE)
        extractor = Extractor(proto)
    images, results = workload.images().numpy(), list(graph.whole.outputs)
    features = [output.name for output in proto.graph.output if output.name not in results]
    inputs = {'images': images, 'img_hw': np.array([SIZE], np.float32)}
    return {
        'exported': _session(extractor.extract_model(list(inputs), results), inputs),
        'alone': _session(extractor.extract_model(['images'], features), {'images': images}),
    }


def _session(proto: 'ModelProto', inputs: dict) -> Callable[[], None]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=['CPUExecutionProvider'])
    session.run(None, inputs)  # the first run allocates memory
    return lambda: session.run(None, inputs) and None


class _GraphWithFeatures(nn.Module):
    """A graph that also outputs the backbone's features, so that the exported model can be cut after the backbone."""

    def __init__(self, graph: 'Graph'):
        super().__init__()
        self.whole, self.divisor = graph, graph.divisor
        stages = len(graph.model.backbone.out_indices)
        self.outputs = (*(f'feature_{i}' for i in range(stages)), *graph.outputs)

    def forward(self, images, img_hw):
        features = []
        handle = self.whole.model.backbone.register_forward_hook(lambda _, inputs, output: features.extend(output))
        try:
            results = self.whole(images, img_hw)
        finally:
            handle.remove()
        return (*features, *results)
