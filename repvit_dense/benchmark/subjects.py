"""Find the subject of a benchmark by name: a backbone, a config or an artifact.

    m1_1, timm/resnet18           a backbone of the catalogue or of timm
    timm:repvit_m1_1              timm's own form of a network, with features_only
    repvit_segformer_ade20k       a config with its own backbone
    repvit_maskrcnn_coco@resnet50 a config with another backbone
    work_dirs/export/onnx         an artifact

Weights are random, which changes neither shapes nor operations. The classifiers of two-stage detectors are sharpened so
that the stages after the proposals process as many objects as with trained weights.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from repvit_dense.benchmark.timing import Stopwatch, TimedCall
from repvit_dense.benchmark.training import TrainingStep, mean_squares
from repvit_dense.benchmark.workload import Workload
from repvit_dense.compat.flop_counter import flop_counter
from repvit_dense.errors import InputError, nearest
from repvit_dense.files import is_folder

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

# Methods of mmdet and mmseg that turn network outputs into results, by the path of their module.
POST_PROCESSING = {
    'rpn_head': 'predict_by_feat',
    'bbox_head': 'predict_by_feat',
    'roi_head.bbox_head': 'predict_by_feat',
    'roi_head.mask_head': 'predict_by_feat',
    'panoptic_fusion_head': 'predict',
    '': 'postprocess_result',
}


class BackboneSubject:
    """A backbone that computes features from normalised images."""

    def __init__(self, name: str, workload: Workload):
        self.name, self.workload = name, workload

    def build(self) -> 'nn.Module':
        """Return the network with random weights on the device of the workload."""
        import torch

        torch.manual_seed(0)
        family, _, model = self.name.partition(':')
        return (_from_timm(model) if family == 'timm' else _from_catalogue(self.name)).to(self.workload.device)

    def inference(self) -> list[TimedCall]:
        """Return a call of the training form in eval mode and, except for timm networks, one of the fused form."""
        from repvit_dense.reparam import reparameterize_model

        model = self.build().eval()
        forms = {self.name: model}
        if not self.name.startswith('timm:'):
            forms[f'{self.name}, fused'] = reparameterize_model(model)
        return [self._forward_call(name, form) for name, form in forms.items()]

    def _forward_call(self, name: str, model: 'nn.Module') -> TimedCall:
        import torch

        images, watch = self.workload.images(), Stopwatch(torch.device(self.workload.device))
        forward = torch.compile(model) if self.workload.compiled else model

        @torch.inference_mode()
        def call():
            with self.workload.autocast(), watch.part('backbone'):
                forward(images)
            return watch.read()

        return TimedCall(name, call, count_params_and_macs(model, lambda: model(images), self.workload.batch))

    def export_onnx(self, folder: Path) -> TimedCall:
        """Export the fused form to an ONNX file in `folder` and return a call of it in ONNX Runtime on the CPU."""
        import onnxruntime
        import torch

        from repvit_dense.reparam import reparameterize_model

        path, images = folder / f'{self.name}.onnx', self.workload.images()
        model = reparameterize_model(self.build().eval())
        torch.onnx.export(model, (images,), path, dynamo=True, external_data=False, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        inputs = {session.get_inputs()[0].name: images.numpy()}
        return TimedCall(f'{self.name}, ONNX', lambda: session.run(None, inputs) and None)

    def training(self) -> TrainingStep:
        """Return a training step with AdamW; the loss is the sum of the mean squares of the features."""
        from torch.optim import AdamW

        model, images = self.build().train(), self.workload.images()
        optimizer = AdamW(model.parameters())
        return TrainingStep(model, lambda: mean_squares(f.float() for f in model(images)), optimizer)


class ConfigSubject:
    """A whole detector or segmentor, from an image in memory to its results."""

    def __init__(self, name: str, workload: Workload):
        self.name, self.workload = name, workload

    def config(self) -> 'Config':
        """Load the config, with the backbone after '@' if there is one."""
        from repvit_dense import config

        head, _, backbone = self.name.partition('@')
        return config.load(head, backbone=backbone or None)

    def build(self, cfg: 'Config') -> 'nn.Module':
        """Return the model with random weights on the device of the workload."""
        import torch

        from repvit_dense.model import build_model

        torch.manual_seed(0)
        model = build_model(cfg)
        sharpen_classifier(model)
        return model.to(self.workload.device)

    def inference(self) -> list[TimedCall]:
        """Return a call of the training form in eval mode and one of the fused form."""
        from repvit_dense.reparam import reparameterize_model

        cfg = self.config()
        model = self.build(cfg)
        forms = {self.name: model, f'{self.name}, fused': reparameterize_model(model)}
        return [timed_prediction(name, form, cfg, self.workload) for name, form in forms.items()]

    def training(self, change: 'Callable[[nn.Module], object] | None' = None) -> TrainingStep:
        """Return a training step on a synthetic batch with the loss and the optimiser of the config.

        Args:
            change: called with the model before the optimiser is built.
        """
        from mmengine.optim import build_optim_wrapper

        from repvit_dense.benchmark.synthetic_batch import synthetic_batch

        cfg = self.config()
        cfg.model.data_preprocessor.pop('batch_augments', None)  # pads to a size of its own
        if 'size' in cfg.model.data_preprocessor:
            cfg.model.data_preprocessor.size = self.workload.size
        model = self.build(cfg).train()
        if change:
            change(model)
        batch = model.data_preprocessor(synthetic_batch(cfg, self.workload), training=True)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)

        def loss():
            images = batch['inputs'].to(next(model.parameters()).dtype)
            samples = [_copy_sample(sample) for sample in batch['data_samples']]
            return model.parse_losses(model(images, samples, mode='loss'))[0]

        return TrainingStep(model, loss, optimizer)


class ArtifactSubject:
    """An artifact on the CPU, from an image in memory to its results."""

    def __init__(self, name: str, workload: Workload):
        self.name, self.workload = name, workload

    def inference(self) -> list[TimedCall]:
        """Return a call of the artifact's Predictor with the parts graph and post-processing."""
        import torch

        from repvit_dense.artifact.predictor import Predictor

        if self.workload.device != 'cpu':
            raise InputError(f'{self.name}: an artifact is measured on the CPU; leave --device out')
        predict, watch = Predictor(self.name, torch.get_num_threads()), Stopwatch(torch.device('cpu'))
        predict._run = watch.timed('graph', predict._run)
        predict._finish = watch.timed('post-processing', predict._finish)  # type: ignore[method-assign]
        pictures = self.workload.pictures()

        def call():
            predict(pictures)
            return watch.read()

        return [TimedCall(self.name, call)]

    def training(self) -> TrainingStep:
        """Refuse to train."""
        raise InputError(f'{self.name}: an artifact cannot be trained; name its config')


AnySubject: TypeAlias = BackboneSubject | ConfigSubject | ArtifactSubject


def find(name: str, workload: Workload) -> AnySubject:
    """Return the subject called `name`.

    Raises:
        InputError: there is no such backbone, config or artifact.
    """
    from repvit_dense import catalogue, config
    from repvit_dense.artifact import pretrained
    from repvit_dense.artifact.manifest import is_artifact

    name = str(pretrained.resolve(name))
    if is_folder(name):
        if not is_artifact(Path(name)):
            raise InputError(f'{name}: this folder holds no artifact (no manifest.json)')
        return ArtifactSubject(name, workload)
    head, _, backbone = name.partition('@')
    if name.startswith('timm:'):
        return BackboneSubject(name, workload)
    try:
        if Path(head).suffix == '.py' or head in config.names():
            config.find(head)
            if backbone:
                catalogue.find(backbone)
            return ConfigSubject(name, workload)
        return BackboneSubject(catalogue.find(name).name, workload)
    except InputError:
        raise
    except ValueError as error:
        hint = nearest(name, pretrained.NAMES)
        reason = error if backbone else f'no config, no artifact, and {error}; timm networks are timm/NAME{hint}'
        raise InputError(f'{name}: {reason}') from error


def timed_prediction(name: str, model: 'nn.Module', cfg: 'Config', workload: Workload) -> TimedCall:
    """Return a call that predicts `workload.pictures()`, timed by part.

    Part 'head' is the time that belongs to no other part.
    """
    import torch
    from mmengine.dataset import Compose, pseudo_collate

    from repvit_dense.model import image_pipeline

    watch = Stopwatch(torch.device(workload.device))
    _time_parts(model, watch)
    if workload.compiled:
        model.backbone.forward = torch.compile(model.backbone.forward)
    pipeline = Compose(_resize_to(image_pipeline(cfg), workload.size))
    pictures = workload.pictures()

    @torch.inference_mode()
    def call():
        with watch.part('head'):
            with watch.part('pre-processing'):
                packed = [pipeline({'img': p, 'img_id': 0, 'img_path': '', 'ori_shape': p.shape[:2]}) for p in pictures]
            with workload.autocast():
                model.test_step(pseudo_collate(packed))
        parts = watch.read()
        parts['head'] -= sum(seconds for part, seconds in parts.items() if part != 'head')
        return parts

    return TimedCall(name, call, count_params_and_macs(model, call, workload.batch))


def count_params_and_macs(model: 'nn.Module', call: Callable[[], object], batch: int) -> dict[str, float]:
    """Return `params`, and `macs`, the multiply-accumulates of `call()` divided by the batch size."""
    import torch

    # PyTorch refuses requires_grad_ on tensors created in inference mode.
    trainable = [
        parameter for parameter in model.parameters() if parameter.requires_grad and not parameter.is_inference()
    ]
    model.requires_grad_(False)  # the counter queries the autograd graph, which inference mode does not have
    with torch.inference_mode(), flop_counter() as counter:
        call()
    for parameter in trainable:
        parameter.requires_grad_(True)
    macs = counter.get_total_flops() / 2 / batch  # one multiply-accumulate is two operations
    return {'params': sum(parameter.numel() for parameter in model.parameters()), 'macs': macs}


def sharpen_classifier(model: 'nn.Module') -> None:
    """Scale up the classifier of a second stage.

    With its initial weights it gives every class the same low score, and the detector returns nothing.
    """
    import torch

    for name, module in model.named_modules():
        if name.endswith('fc_cls'):
            with torch.no_grad():
                module.weight.mul_(1000)


def _copy_sample(sample):
    """Copy a data sample, because RTMDet's head writes into the ground truth it is given."""
    copied = sample.new()
    if 'gt_instances' in sample:
        copied.gt_instances = sample.gt_instances.new()
    return copied


def _resize_to(pipeline: list[dict], size: tuple[int, int]) -> list[dict]:
    """Return the test pipeline with every image resized and padded to `size`, height and width in pixels."""
    width_height = size[::-1]
    changes: dict[str, dict] = {'Resize': {'scale': width_height, 'keep_ratio': False}, 'Pad': {'size': width_height}}
    return [{**step, **changes.get(step['type'], {})} for step in pipeline]


def _time_parts(model: 'nn.Module', watch: Stopwatch) -> None:
    for attribute, part in (('data_preprocessor', 'pre-processing'), ('backbone', 'backbone'), ('neck', 'neck')):
        module = getattr(model, attribute, None)
        if module is not None:
            module.forward = watch.timed(part, module.forward)
    modules = dict(model.named_modules())
    for path, method in POST_PROCESSING.items():
        module = modules.get(path)
        if hasattr(module, method):
            setattr(module, method, watch.timed('post-processing', getattr(module, method)))


def _from_catalogue(name: str) -> 'nn.Module':
    from repvit_dense import catalogue
    from repvit_dense.model import build_backbone

    return build_backbone(catalogue.find(name))


def _from_timm(name: str) -> 'nn.Module':
    import timm

    try:
        return timm.create_model(name, features_only=True)
    except (RuntimeError, AttributeError) as error:
        raise InputError(f'timm:{name}: timm has no such network with features_only ({error})') from error
