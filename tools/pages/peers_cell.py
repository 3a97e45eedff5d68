"""One head on one backbone, as docs/peers.md compares them: sizes, latency in three forms, training step, memory."""

import copy
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from repvit_dense.benchmark import timing
from repvit_dense.benchmark.subjects import ConfigSubject, Setting, Training, predicting, size
from repvit_dense.benchmark.timing import Subject
from repvit_dense.benchmark.training import peak_bytes

if TYPE_CHECKING:
    from onnx import ModelProto

    from repvit_dense.exporting.graphs.base import Graph

REFERENCE = 'repvit_m1_1'  # alive all the time: speeds of a shared machine drift, ratios to it do not
SIZE = (512, 512)  # height and width of the input in pixels
TRAINED, STEPS = 2, 2  # images of a training step; how many steps are timed
FORMS = ('eager', 'exported', 'alone')  # the last one is the backbone exported by itself
ANSWERS = ('conv_seg', 'retina_cls')  # layers that give what a head decides by


def measure(head: str, name: str, rounds: int, reference: Sequence[Subject]) -> dict:
    """One head on one backbone.

    Returns:
        `params`, and `macs` of one image, both also of the backbone; of each of `FORMS` the seconds of the rounds,
        `own`, and those of the reference in the same rounds, `reference`; `step`, seconds of training steps, and
        `peak_bytes` of one.
    """
    trained = training(head, name)
    subjects = inference(trained.model, head, name, 'own')
    seconds, parts = timing.interleave([*reference, *subjects], rounds, warmup=0)  # each ran once
    times = {
        form: {who: _from_image(seconds[f'{who} {form}'], parts[f'{who} {form}']) for who in ('own', 'reference')}
        for form in FORMS
    }
    about = subjects[0].about
    del subjects  # the deploy forms, before a step fills the memory
    return {**about, **times, **steps(trained)}


def reference(head: str) -> list[Subject]:
    """What is measured in turns with every backbone under this head."""
    return inference(training(head, REFERENCE).model, head, REFERENCE, 'reference')


def _from_image(seconds: list[float], parts: dict[str, list[float]]) -> list[float]:
    """From the normalised image on: making it of a picture is the same work for every backbone."""
    return [
        whole - part for whole, part in zip(seconds, parts.get('pre-processing', [0.0] * len(seconds)), strict=True)
    ]


def training(head: str, name: str) -> Training:
    trained = ConfigSubject(f'{head}@{name}', Setting(TRAINED, SIZE)).training()
    trained.model.backbone.norm_eval = True  # a recipe leaves those norms live that start from nothing
    return trained


def steps(trained: Training) -> dict:
    """Seconds of whole training steps, and what torch allocated at most in one, above what was there before."""
    device = next(trained.model.parameters()).device
    trained.model.train()
    peak = peak_bytes(lambda: _step(trained), device)  # the step that warms up
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        _step(trained)
        seconds.append(time.perf_counter() - start)
    return {'step': seconds, 'peak_bytes': peak}


def _step(trained: Training) -> None:
    trained.loss().backward()
    trained.optimizer.step()
    trained.optimizer.zero_grad()


def inference(model: nn.Module, head: str, name: str, who: str) -> list[Subject]:
    """A copy in deploy form in each of `FORMS`, one image; the first is `about` the numbers of both parts."""
    from repvit_dense.exporting import folding
    from repvit_dense.reparam import reparameterize_model

    setting, cfg = Setting(1, SIZE), ConfigSubject(f'{head}@{name}', Setting(1, SIZE)).config()
    fused = reparameterize_model(model.eval())
    for path, layer in fused.named_modules():
        if path.endswith(ANSWERS):  # random answers differ from backbone to backbone, and so would what follows them
            nn.init.zeros_(layer.weight)
    sessions = _sessions(folding.fold_norms(copy.deepcopy(fused)), setting)
    backbone = size(fused.backbone, lambda: fused.backbone(setting.images()), setting)
    eager = predicting(f'{who} eager', fused, cfg, setting)
    about = eager.about | {f'backbone_{key}': value for key, value in backbone.items()}
    return [eager._replace(about=about), *(Subject(f'{who} {form}', call) for form, call in sessions.items())]


def _sessions(model: nn.Module, setting: Setting) -> dict:
    """Calls of the whole network and of its backbone as ONNX files, which come from one export."""
    import numpy as np
    from onnx.utils import Extractor

    from repvit_dense.exporting import formats, graphs
    from repvit_dense.exporting.formats import onnx

    tapped = _Tapped(graphs.build(model))
    with formats._quiet():
        proto = onnx.convert(tapped, SIZE)
        cut = Extractor(proto)
    images, results = setting.images().numpy(), list(tapped.whole.outputs)
    features = [output.name for output in proto.graph.output if output.name not in results]
    given = {'images': images, 'img_hw': np.array([SIZE], np.float32)}
    return {
        'exported': _session(cut.extract_model(list(given), results), given),
        'alone': _session(cut.extract_model(['images'], features), {'images': images}),
    }


def _session(proto: 'ModelProto', given: dict):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=['CPUExecutionProvider'])
    session.run(None, given)  # the first time it allocates
    return lambda: session.run(None, given) and None


class _Tapped(nn.Module):
    """A graph that also returns the backbone's features, so that the exported model can be cut behind them."""

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
