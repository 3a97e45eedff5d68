"""What a benchmark takes by name: a backbone of the catalogue or of timm, a config, an artifact.

    m1_1                          a backbone of the catalogue
    timm:repvit_m1_1              any network of timm that gives features
    repvit_segformer_ade20k       a config, on its own backbone
    repvit_maskrcnn_coco@resnet50 a config on another one
    work_dirs/export/onnx         an artifact

Weights are random: they change neither shapes nor operations, and detectors with a second stage are made sure of what
they see, so that the work after the proposals is that of a full picture.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.benchmark.timing import Stopwatch, Subject
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from mmengine.optim import OptimWrapper
    from torch import Tensor, nn
    from torch.optim import Optimizer

# Methods of mmdet and mmseg that make results of what the networks gave.
POST_PROCESSING = {
    'rpn_head': 'predict_by_feat',
    'bbox_head': 'predict_by_feat',
    'roi_head.bbox_head': 'predict_by_feat',
    'roi_head.mask_head': 'predict_by_feat',
    'panoptic_fusion_head': 'predict',
    '': 'postprocess_result',
}


class Setting(NamedTuple):
    """How everything of one run is measured.

    Attributes:
        batch: images at a time.
        size: height and width of the network's input in pixels.
        device: as torch names it.
        precision: 'fp32', or 'bf16': autocast.
        compiled: run through `torch.compile`.
    """

    batch: int
    size: tuple[int, int]
    device: str = 'cpu'
    precision: str = 'fp32'
    compiled: bool = False

    def autocast(self):
        import torch

        return torch.autocast(self.device, torch.bfloat16) if self.precision == 'bf16' else nullcontext()

    def images(self) -> 'Tensor':
        """`(B, 3, H, W)`, normal numbers, always the same."""
        import torch

        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, 3, *self.size, generator=generator).to(self.device)

    def pictures(self) -> 'list[np.ndarray]':
        """`(H, W, 3)` uint8 each, noise, always the same."""
        import numpy as np

        return list(np.random.default_rng(0).integers(0, 256, (self.batch, *self.size, 3), np.uint8))


class Training(NamedTuple):
    """What a training step needs: the network in training mode, its loss on one batch, and what follows gradients."""

    model: 'nn.Module'
    loss: 'Callable[[], Tensor]'
    optimizer: 'OptimWrapper | Optimizer'


class BackboneSubject:
    """A backbone: what it makes of images that are normalised already."""

    def __init__(self, name: str, setting: Setting):
        self.name, self.setting = name, setting

    def build(self) -> 'nn.Module':
        import torch

        torch.manual_seed(0)
        family, _, model = self.name.partition(':')
        return (_from_timm(model) if family == 'timm' else _from_catalogue(self.name)).to(self.setting.device)

    def inference(self) -> list[Subject]:
        """In the form it is trained in, in eval mode; and fused, where it can be."""
        from repvit_dense.reparam import reparameterize_model

        model = self.build().eval()
        forms = {self.name: model}
        if not self.name.startswith('timm:'):
            forms[f'{self.name}, fused'] = reparameterize_model(model)
        return [self._inference(name, form) for name, form in forms.items()]

    def _inference(self, name: str, model: 'nn.Module') -> Subject:
        import torch

        images, watch = self.setting.images(), Stopwatch(torch.device(self.setting.device))
        run = torch.compile(model) if self.setting.compiled else model

        @torch.inference_mode()
        def call():
            with self.setting.autocast(), watch.part('backbone'):
                run(images)
            return watch.read()

        return Subject(name, call, size(model, lambda: model(images), self.setting))

    def exported(self, folder: Path) -> Subject:
        """Fused, as an ONNX file in `folder`, in ONNX Runtime on this machine's CPU."""
        import onnxruntime
        import torch

        from repvit_dense.reparam import reparameterize_model

        path, images = folder / f'{self.name}.onnx', self.setting.images()
        model = reparameterize_model(self.build().eval())
        torch.onnx.export(model, (images,), path, dynamo=True, external_data=False, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        given = {session.get_inputs()[0].name: images.numpy()}
        return Subject(f'{self.name}, ONNX', lambda: session.run(None, given) and None)

    def training(self) -> Training:
        """The loss is the features' mean squares."""
        from torch.optim import AdamW

        from repvit_dense.benchmark.training import mean_squares

        model, images = self.build().train(), self.setting.images()
        optimizer = AdamW(model.parameters())
        return Training(model, lambda: mean_squares(f.float() for f in model(images)), optimizer)


class ConfigSubject:
    """A whole detector or segmentor, from an image in memory to its results."""

    def __init__(self, name: str, setting: Setting):
        self.name, self.setting = name, setting

    def config(self) -> 'Config':
        from repvit_dense import config

        head, _, backbone = self.name.partition('@')
        return config.load(head, backbone=backbone or None)

    def build(self, cfg: 'Config') -> 'nn.Module':
        import torch

        from repvit_dense.model import build_model

        torch.manual_seed(0)
        model = build_model(cfg)
        make_sure(model)
        return model.to(self.setting.device)

    def inference(self) -> list[Subject]:
        """As it was trained, and fused."""
        from repvit_dense.reparam import reparameterize_model

        cfg = self.config()
        model = self.build(cfg)
        forms = {self.name: model, f'{self.name}, fused': reparameterize_model(model)}
        return [predicting(name, form, cfg, self.setting) for name, form in forms.items()]

    def training(self, change: 'Callable[[nn.Module], object] | None' = None) -> Training:
        """The loss and the optimiser are the config's, the objects are drawn; `change(model)` comes first."""
        from mmengine.optim import build_optim_wrapper

        from repvit_dense.benchmark.synthetic_batch import batch

        cfg = self.config()
        cfg.model.data_preprocessor.pop('batch_augments', None)  # pads to a size of its own
        if 'size' in cfg.model.data_preprocessor:
            cfg.model.data_preprocessor.size = self.setting.size
        model = self.build(cfg).train()
        if change:
            change(model)
        data = model.data_preprocessor(batch(cfg, self.setting), training=True)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)

        def loss():
            images = data['inputs'].to(next(model.parameters()).dtype)
            samples = [_renewed(sample) for sample in data['data_samples']]
            return model.parse_losses(model(images, samples, mode='loss'))[0]

        return Training(model, loss, optimizer)


class ArtifactSubject:
    """An exported model, from an image in memory to its results, on this machine's CPU."""

    def __init__(self, name: str, setting: Setting):
        self.name, self.setting = name, setting

    def inference(self) -> list[Subject]:
        import torch

        from repvit_dense.artifact.predictor import Predictor

        if self.setting.device != 'cpu':
            raise InputError(f'{self.name}: an artifact is measured on the CPU; leave --device out')
        predict, watch = Predictor(self.name, torch.get_num_threads()), Stopwatch(torch.device('cpu'))
        predict._run = watch.timed('graph', predict._run)
        predict._finish = watch.timed('post-processing', predict._finish)
        pictures = self.setting.pictures()

        def call():
            predict(pictures)
            return watch.read()

        return [Subject(self.name, call)]

    def training(self):
        raise InputError(f'{self.name}: an artifact cannot be trained; name its config')


def find(name: str, setting: Setting) -> BackboneSubject | ConfigSubject | ArtifactSubject:
    """What `name` names. Raises InputError where that is nothing."""
    from repvit_dense import config
    from repvit_dense.artifact.manifest import is_artifact
    from repvit_dense.backbones import catalogue

    if Path(name).is_dir():
        if not is_artifact(Path(name)):
            raise InputError(f'{name}: this folder holds no artifact (no manifest.json)')
        return ArtifactSubject(name, setting)
    head, _, backbone = name.partition('@')
    if Path(head).suffix == '.py' or head in config.names():
        return ConfigSubject(name, setting)
    if name.startswith('timm:'):
        return BackboneSubject(name, setting)
    try:
        return BackboneSubject(catalogue.find(name).name, setting)
    except ValueError as error:
        raise InputError(
            f'{name}: no config, no artifact, and {error}; or name a network of timm: timm:NAME'
        ) from error


def predicting(name: str, model: 'nn.Module', cfg: 'Config', setting: Setting) -> Subject:
    """A model's prediction of `setting.pictures()`, by part; what is in none of the others is the head."""
    import torch
    from mmengine.dataset import Compose, pseudo_collate

    from repvit_dense.model import image_pipeline

    watch = Stopwatch(torch.device(setting.device))
    _watch_parts(model, watch)
    if setting.compiled:
        model.backbone.forward = torch.compile(model.backbone.forward)
    steps = Compose(_at_size(image_pipeline(cfg), setting.size))
    pictures = setting.pictures()

    @torch.inference_mode()
    def call():
        with watch.part('head'):
            with watch.part('pre-processing'):
                packed = [steps({'img': p, 'img_id': 0, 'img_path': '', 'ori_shape': p.shape[:2]}) for p in pictures]
            with setting.autocast():
                model.test_step(pseudo_collate(packed))
        parts = watch.read()
        parts['head'] -= sum(seconds for part, seconds in parts.items() if part != 'head')
        return parts

    about = size(model, call, setting)
    return Subject(name, call, about)


def size(model: 'nn.Module', call: Callable[[], object], setting: Setting) -> dict[str, float]:
    """`params`, and `macs` of one image: multiply-accumulates, counted in one call."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    # What was made in inference mode never learns, and torch refuses to be told otherwise.
    learning = [one for one in model.parameters() if one.requires_grad and not one.is_inference()]
    model.requires_grad_(False)  # the counter looks for where gradients come from, and inference mode knows of none
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        call()
    for one in learning:
        one.requires_grad_(True)
    macs = counter.get_total_flops() / 2 / setting.batch  # one is two operations
    return {'params': sum(parameter.numel() for parameter in model.parameters()), 'macs': macs}


def _renewed(sample):
    """RTMDet's head writes into the objects it is given."""
    new = sample.new()
    if 'gt_instances' in sample:
        new.gt_instances = sample.gt_instances.new()
    return new


def _at_size(pipeline: list[dict], size: tuple[int, int]) -> list[dict]:
    """A test pipeline that makes every image this high and wide."""
    width_height = size[::-1]
    asked = {'Resize': {'scale': width_height, 'keep_ratio': False}, 'Pad': {'size': width_height}}
    return [{**step, **asked.get(step['type'], {})} for step in pipeline]


def _watch_parts(model: 'nn.Module', watch: Stopwatch) -> None:
    for part, name in (('data_preprocessor', 'pre-processing'), ('backbone', 'backbone'), ('neck', 'neck')):
        module = getattr(model, part, None)
        if module is not None:
            module.forward = watch.timed(name, module.forward)
    modules = dict(model.named_modules())
    for path, method in POST_PROCESSING.items():
        owner = modules.get(path)
        if hasattr(owner, method):
            setattr(owner, method, watch.timed('post-processing', getattr(owner, method)))


def _from_catalogue(name: str) -> 'nn.Module':
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401  both register what they define
    from mmengine.registry import MODELS, init_default_scope

    from repvit_dense.backbones import catalogue

    init_default_scope('mmdet')
    entry = catalogue.find(name)
    return MODELS.build({'type': entry.type, **entry.args, 'init_cfg': None})


def _from_timm(name: str) -> 'nn.Module':
    import timm

    try:
        return timm.create_model(name, features_only=True)
    except (RuntimeError, AttributeError) as error:
        raise InputError(f'timm:{name}: timm gives no features of such a network ({error})') from error


def make_sure(model: 'nn.Module') -> None:
    """Random classifiers of a second stage give every class the same low score and would find nothing."""
    import torch

    for name, module in model.named_modules():
        if name.endswith('fc_cls'):
            with torch.no_grad():
                module.weight.mul_(1000)
