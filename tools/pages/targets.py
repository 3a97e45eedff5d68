"""What this toolbox promises about speed and memory, beside what it does on this machine: `make bench`.

A target is a ratio of two things measured in alternation in this run, or a limit in seconds.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from repvit_dense import config
from repvit_dense.benchmark import process, random_models, timing, training
from tools.pages import coco_evaluation
from repvit_dense.benchmark.subjects import (
    ArtifactSubject,
    BackboneSubject,
    ConfigSubject,
    Setting,
    Training,
    predicting,
)
from repvit_dense.benchmark.timing import Subject
from repvit_dense.errors import InputError
from repvit_dense.memory import kept_when_freed
from repvit_dense.reparam import reparameterize_model

ARCH = 'm1_1'
MORE = 3  # times as many rounds for a backbone by itself, which take seconds: a shared machine's speed varies within
DRAWS = 3  # networks whose gradients are compared: errors of different weights differ by a factor of two
TOOLS = ('train', 'test', 'predict', 'export', 'benchmark', 'doctor')


class Row(NamedTuple):
    """One promise.

    Attributes:
        what, against: the two that are compared; `against` is empty where the target is a limit.
        target, measured: numbers in `unit`; where there is no target nothing is promised.
        least: whether `measured` must be at least `target`, else at most.
    """

    what: str
    against: str
    target: float | None
    measured: float
    unit: str = 'x'
    least: bool = True

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.measured >= self.target if self.least else self.measured <= self.target


def measure(parts: Sequence[str], rounds: int, setting: Setting) -> dict:
    """The rows of these keys of `PARTS`, all where there is none; each is printed as it comes.

    Args:
        rounds: timed rounds; of a backbone by itself `MORE` times as many.
        setting: of the keys of `NETWORKS`. The others have settings of their own, on this machine's CPU. All of them
            take some twenty minutes there.

    Raises:
        InputError: a part is measured on the CPU only, and `setting` names a GPU.
    """
    known = NETWORKS if setting.device.startswith('cuda') else PARTS
    for part in parts:
        if part not in known:
            raise InputError(f'--targets {part} is measured on the CPU; leave --device out. A GPU: {", ".join(known)}')
    rows = []
    torch.manual_seed(0)
    for part in parts or known:
        for row in NETWORKS[part](rounds, setting) if part in NETWORKS else PARTS[part](rounds):
            rows.append(row)
            print(_line(row), flush=True)
    return {
        'device': timing.name_of(setting.device),
        'threads': torch.get_num_threads(),
        'rounds': rounds,
        'torch': torch.__version__,
        'rows': [{**row._asdict(), 'met': row.met} for row in rows],
    }


# --- the backbone -----------------------------------------------------------------------------------------------------


def backbone_training(rounds: int, setting: Setting, arch: str = ARCH) -> Iterator[Row]:
    """Forward and backward, with frozen batch norms as detectors are fine-tuned, and with live ones."""
    with kept_when_freed():  # as the command `train` does
        yield from _frozen(rounds, setting, arch)
        yield from _live(rounds, setting, arch)


def _frozen(rounds: int, setting: Setting, arch: str) -> Iterator[Row]:
    merged, plain = _twins(arch, setting)
    images = setting.images()
    what, against = f'backbone training step, {arch}, {_size(setting)}, norms frozen', "timm's form, norms frozen"
    yield Row(what, against, 1.5, _step_faster(plain, merged, setting, rounds))
    saved = [training.saved_bytes(network, lambda n=network: n(images)) for network in (plain, merged)]
    yield Row(f'{what}: saved activations', against, 55, 100 * saved[1] / saved[0], '%', least=False)
    error = max(_gradient_error(arch, setting) for _ in range(DRAWS))
    what = f'{what}, {DRAWS} networks: largest error of a gradient, relative'
    yield Row(what, 'float64', 1e-5, error, '', least=False)


def _gradient_error(arch: str, setting: Setting) -> float:
    """Of a network with new weights."""
    merged, plain = _twins(arch, setting)
    exact, images = plain.double(), setting.images()
    with _in_full_precision():
        training.training_step(exact, images.double())
        training.training_step(merged, images)
    return training.gradient_error(merged, exact)


def _live(rounds: int, setting: Setting, arch: str) -> Iterator[Row]:
    merged, plain = _twins(arch, setting, frozen=False)
    images = setting.images()
    what, against = f'backbone training step, {arch}, {_size(setting)}, norms live', "timm's form, norms live"
    with _in_full_precision():
        for network in (plain, merged):
            training.training_step(network, images)
    error = training.statistics_error(merged, plain)
    yield Row(f'{what}: running statistics, relative difference', against, 1e-6, error, '', least=False)
    yield Row(what, against, 1.1, _step_faster(plain, merged, setting, rounds))


def backbone_inference(rounds: int, setting: Setting, arch: str = ARCH) -> Iterator[Row]:
    merged, plain = (network.eval() for network in _twins(arch, setting))
    images, subjects = setting.images(), []
    for name, network in (('base', plain), ('own', reparameterize_model(merged))):
        run = torch.compile(network) if setting.compiled else network
        subjects.append(timing.waiting(name, lambda run=run: run(images), setting.device))
    with torch.inference_mode(), setting.autocast():
        ratio = _faster(*subjects, MORE * rounds)
    what = f'backbone inference, {arch}, {_size(setting)}, fused, channels_last'
    yield Row(what, 'every branch and norm by itself, default layout', 1.35, ratio)


def _loss_in_float64(step: Training) -> float:
    """In less precision rounding changes which proposals are kept and sampled."""
    step.model.double()
    loss = _seeded(step).loss().item()
    step.model.float()
    return loss


def _seeded(step: Training) -> Training:
    """With the same random samples of proposals in every step, which decide how long it takes."""

    def loss():
        torch.manual_seed(0)
        return step.loss()

    return step._replace(loss=loss)


def _twins(arch: str, setting: Setting, frozen: bool = True) -> Iterator[nn.Module]:
    return (network.to(setting.device) for network in training.twins(arch, frozen))


def _size(setting: Setting) -> str:
    height, width = setting.size
    return f'{setting.batch}x{height}x{width}'


def _in_full_precision():
    """Convolutions that do not round their factors to TF32, as they do on a GPU unless told otherwise."""
    return torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)


def _step(network: nn.Module, images: torch.Tensor, setting: Setting) -> Subject:
    run = torch.compile(network) if setting.compiled else network
    name = type(network).__name__
    return timing.waiting(name, lambda: training.training_step(run, images, setting.autocast()), setting.device)


def _step_faster(plain: nn.Module, merged: nn.Module, setting: Setting, rounds: int) -> float:
    images = setting.images()
    return _faster(*(_step(network, images, setting) for network in (plain, merged)), MORE * rounds)


def _faster(base: Subject, own: Subject, rounds: int) -> float:
    """How many times faster the second is."""
    return timing.compare('', [base._replace(name='base'), own._replace(name='own')], rounds)[1]['speedup']


def whole_step(rounds: int, setting: Setting, head: str = 'repvit_maskrcnn_coco') -> Iterator[Row]:
    """A whole Mask R-CNN on our backbone and on timm's with equal weights; and our backbone by itself."""
    merged, plain = _twins(ARCH, setting)
    own = ConfigSubject(head, setting).training(lambda model: model.backbone.load_state_dict(merged.state_dict()))
    base = ConfigSubject(head, setting).training(lambda model: setattr(model, 'backbone', plain))
    what, against = f'{head} training step, {_size(setting)}, norms frozen', "the same on timm's backbone"
    losses = [_loss_in_float64(step) for step in (base, own)]
    difference = abs(losses[1] - losses[0]) / losses[0]
    yield Row(f'{what}: loss in float64, relative difference', against, 1e-6, difference, '', least=False)
    subjects = [training.subject(name, _seeded(step), setting) for name, step in (('base', base), ('own', own))]
    backbone = _step(merged, setting.images(), setting)._replace(name='backbone')
    with kept_when_freed():
        rows = timing.compare('', [*subjects, backbone], rounds)
    yield Row(what, against, 1.0, rows[1]['speedup'])
    yield Row(f'{what}: share of the backbone', '', None, 100 * rows[2]['median'] / rows[1]['median'], '%')


# --- artifacts --------------------------------------------------------------------------------------------------------


def artifacts(rounds: int) -> Iterator[Row]:
    """Whole pictures through exported models, from the pixels in memory to the result."""
    for head, side, form, target in (
        ('repvit_segformer_ade20k', 512, 'unfused', 2.2),
        ('repvit_maskrcnn_coco', 320, 'fused', None),  # promised in int8 only, below
        ('repvit_maskrcnn_coco', 640, 'fused', None),
    ):
        with tempfile.TemporaryDirectory() as folder:
            eager, exported = _whole(head, (side, side), Path(folder), form)
            rows = timing.compare('', [eager, *exported], rounds)
            best = max(rows[1:], key=lambda row: row['speedup'])
        what = f'{head} on {ARCH}, 1x{side}x{side}, {best["subject"]} artifact'
        yield Row(what, f'mmdet, mmseg, {form}', target, best['speedup'])
    yield from against_resnet(rounds)


def _whole(
    head: str, size: tuple[int, int], folder: Path, form: str, targets: tuple[str, ...] = ('onnx', 'openvino')
) -> tuple[Subject, list[Subject]]:
    """A config's prediction in PyTorch, and as artifacts."""
    setting, cfg = Setting(1, size), config.load(head, backbone=ARCH)
    model = random_models.build(cfg)
    if form == 'fused':
        reparameterize_model(model, inplace=True)
    exported, _ = random_models.exported(cfg, targets, folder, size, '--no-verify')
    return predicting('eager', model, cfg, setting), [_artifact(row.folder, row.target, setting) for row in exported]


def _artifact(folder: Path, name: str, setting: Setting) -> Subject:
    (subject,) = ArtifactSubject(str(folder), setting).inference()
    return subject._replace(name=name)


def against_resnet(rounds: int, side: int = 640) -> Iterator[Row]:
    """RepViT and ResNet-50 as artifacts: the backbone by itself, and under a heavy and a light head."""
    setting, names = Setting(1, (side, side)), ('resnet50', ARCH)
    with tempfile.TemporaryDirectory() as folder:
        files = [BackboneSubject(name, setting).exported(Path(folder)) for name in names]
        rows = timing.compare('', files, rounds)
        yield Row(f'{ARCH} as ONNX, 1x{side}x{side}: backbone', 'resnet50', None, rows[1]['speedup'])
        for head in ('repvit_maskrcnn_coco', 'repvit_rtmdet-ins_coco'):
            subjects = []
            for name in names:
                place = Path(folder, head, name)
                place.mkdir(parents=True)
                exported, _ = random_models.exported(
                    config.load(head, backbone=name), ['openvino'], place, (side, side), '--no-verify'
                )
                subjects.append(_artifact(exported[0].folder, name, setting))
            rows = timing.compare('', subjects, rounds)
            yield Row(f'{head} on {ARCH}, OpenVINO, 1x{side}x{side}', 'resnet50', None, rows[1]['speedup'])


def int8(rounds: int) -> Iterator[Row]:
    """int8 artifacts against fp32 ones of the same format, and against PyTorch.

    Ranges are found on the embedded pictures, so classes are theirs.
    """
    for head, side, over_eager in (
        ('repvit_segformer_ade20k', 512, None),
        ('repvit_maskrcnn_coco', 320, 2.3),
        ('repvit_maskrcnn_coco', 640, 2.3),
    ):
        cfg = config.load(head, backbone=ARCH, data='shapes')
        config.prepare_data(cfg)
        for target in ('onnx', 'openvino'):
            what = f'{head} on {ARCH}, 1x{side}x{side}, {target} int8'
            with tempfile.TemporaryDirectory() as folder:
                try:
                    full, own, eager = _precisions(cfg, target, Path(folder), Setting(1, (side, side)))
                except InputError as error:  # a quantiser that is not installed
                    print(f'{what}: not measured. {error}', file=sys.stderr)
                    continue
                yield Row(what, f'{target} fp32', 1.4, _faster(full, own, rounds))
                yield Row(what, 'mmdet, mmseg, fused', over_eager, _faster(eager, own, rounds))


def _precisions(cfg, target: str, folder: Path, setting: Setting) -> list[Subject]:
    """A config as an fp32 and as an int8 artifact, and fused in PyTorch."""
    subjects = []
    for precision in ('fp32', 'int8'):
        options = ['--no-verify', '--precision', precision, '--calibration', '8']
        exported, errors = random_models.exported(cfg, [target], folder, setting.size, *options)
        if errors:
            raise InputError(f'{precision}: {errors[target]}')
        subjects.append(_artifact(exported[0].folder, precision, setting))
    model = reparameterize_model(random_models.build(cfg), inplace=True)
    return [*subjects, predicting('eager', model, cfg, setting)]


# --- processes --------------------------------------------------------------------------------------------------------


def evaluation(rounds: int, images: int = 5000) -> Iterator[Row]:
    """COCO's box and mask AP of as many pictures; one round, because pycocotools takes its time."""
    scores = {}

    def keep(name, evaluate):
        scores[name] = evaluate()

    subjects = [
        Subject(name, lambda name=name, evaluate=evaluate: keep(name, evaluate))
        for name, evaluate in coco_evaluation.subjects(images).items()
    ]
    ratio = timing.compare('', subjects, 1, warmup=0)[1]['speedup']
    base, own = scores.values()
    what, against = f'COCO box and mask AP of {images} pictures', subjects[0].name
    yield Row(what, against, 5.0, ratio)
    yield Row(f'{what}: largest difference', against, 1e-6, float(abs(own - base).max()), '', least=False)


def starts(rounds: int) -> Iterator[Row]:
    for tool in TOOLS:
        (row,) = timing.compare('', [process.help_page(tool)], rounds)
        yield Row(f'{tool} --help', '', 0.5, row['median'], 's', least=False)
    cfg = config.load('repvit_maskrcnn_shapes')
    config.prepare_data(cfg)
    seconds = statistics.median(process.first_iteration('repvit_maskrcnn_shapes') for _ in range(3))
    yield Row('repvit_maskrcnn_shapes, import to first iteration', '', 12, seconds, 's', least=False)
    with tempfile.TemporaryDirectory() as folder:
        exported, _ = random_models.exported(cfg, ['onnx'], Path(folder), (256, 256), '--no-verify')
        subject = process.first_result(ArtifactSubject(str(exported[0].folder), Setting(1, (256, 256))))
        (row,) = timing.compare('', [subject], rounds)
    yield Row('repvit_maskrcnn_shapes, artifact, process from start to end', '', None, row['median'], 's')


NETWORKS = {'training': backbone_training, 'inference': backbone_inference, 'detector': whole_step}
PARTS = {**NETWORKS, 'startup': starts, 'export': artifacts, 'evaluation': evaluation, 'int8': int8}

# --- what is printed --------------------------------------------------------------------------------------------------


def to_text(report: dict) -> str:
    """Target and measured value beside each other."""
    rows = [Row(**{key: value for key, value in row.items() if key != 'met'}) for row in report['rows']]
    promised = [row for row in rows if row.met is not None]
    head = f'{report["device"]}, {report["threads"]} threads, {report["rounds"]} rounds, torch {report["torch"]}'
    return '\n'.join(
        ['', head, *map(_line, rows), f'{sum(row.met for row in promised)} of {len(promised)} targets met']
    )


def _line(row: Row) -> str:
    number = f'{row.measured:.2f}' if row.measured >= 0.01 else f'{row.measured:.1e}'
    asked = '' if row.target is None else f'asked {">=" if row.least else "<="} {row.target:g}{row.unit}'
    verdict = {None: '', True: 'met', False: 'NOT MET'}[row.met]
    what = row.what + (f' against {row.against}' if row.against else '')
    return f'{what:125} {number + row.unit:>9}  {asked:16} {verdict}'.rstrip()
