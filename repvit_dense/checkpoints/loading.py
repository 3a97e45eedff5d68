"""Load checkpoints strictly: every tensor fits, or the module stays as it is and the error says why."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

# Import the modules, not their names: if mmengine imports the backbones first, this line runs before they are defined.
from repvit_dense.backbones import base, repvit
from repvit_dense.checkpoints.layouts import Layout, convert, detect_layout, extract_state_dict, rename_keys
from repvit_dense.checkpoints.reading import CheckpointError, read
from repvit_dense.errors import printable

MOST_LOOKUPS = 1_000_000  # bounds the time that a crafted state dict takes
# Parts beside the backbone of a classification network; any other part belongs to a detector or segmentor.
CLASSIFICATION_PARTS = {'head', 'classifier', 'fc', 'data_preprocessor', 'steps', 'n_averaged'}


def load_checkpoint(module: nn.Module, source, map_location='cpu', name: str | None = None) -> dict:
    """Load weights into a backbone, a detector or segmentor, or any other module: all of its tensors, or none.

    Args:
        module: a `RepViT` accepts classification or backbone weights in any layout; a network with a RepViT as its
            `backbone` accepts checkpoints of this package and of the authors; a `Peer` accepts published ImageNet
            weights or its own state dict; any other module accepts its own state dict. Wrappers are looked through.
        source: a path, URL or catalogue name as in `read`, or a checkpoint that was already read.
        map_location: device of the tensors that are read; the module keeps its dtype and device.
        name: of a checkpoint that was already read, for messages.

    Returns:
        the whole checkpoint, for a runner to resume from.

    Raises:
        CheckpointError: the checkpoint cannot be read or does not fit exactly. The module is unchanged.
    """
    checkpoint: Any = source
    if not isinstance(source, Mapping):
        checkpoint, name = read(source, map_location), str(source)
    while is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        module = module.module
    # These tensors share their memory with the module.
    parameters = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    try:
        state, others = extract_state_dict(checkpoint)
        state, description, unused = _select(module, state)
        # A batch norm's counter changes nothing at a fixed momentum, and old files lack it.
        state |= {k: v for k, v in parameters.items() if k.endswith('num_batches_tracked') and k not in state}
        _require_fit(module, state, parameters)
        converted = require_sound(state, parameters)
    except CheckpointError as error:
        raise CheckpointError(f'{name}: {error}' if name else str(error)) from None
    with torch.no_grad():
        for key, value in parameters.items():
            value.copy_(converted[key])
    name = printable(name or 'these weights')
    print_log(f'{name}: {description}, {len(parameters)} tensors loaded', logger='current')
    unused += others
    if unused:
        print_log(f'{name}: not used, as expected: {", ".join(unused)}', logger='current')
    return checkpoint


def _select(module: nn.Module, state: dict) -> tuple[dict, str, list[str]]:
    """Return the tensors for this module under its own names, a description, and descriptions of unused tensors."""
    if isinstance(module, base.Peer):
        return select_for_peer(module, state)
    whole = isinstance(getattr(module, 'backbone', None), repvit.RepViT)
    if not whole and not isinstance(module, repvit.RepViT):
        return strip_prefix(state, module.state_dict()), 'weights', []
    layout = detect_layout(state)
    inside, outside, parts = split(state, layout)
    if whole and not (layout.prefix.endswith('backbone.') and parts):
        raise CheckpointError(
            f'these are pretrained backbone weights ({layout.name} layout, {layout}), the model is a whole '
            f"{type(module).__name__}: set them as backbone.init_cfg=dict(type='Pretrained', checkpoint=...), or train "
            'from them: train --from'
        )
    if parts and not whole:
        raise CheckpointError(
            f'a whole detector or segmentor (with {", ".join(sorted(parts)[:5])} beside the backbone), not pretrained '
            'backbone weights: name it as the CHECKPOINT of `test`, or for training as --from or --resume'
        )
    backbone = module.backbone if whole else module
    require_same_variant(layout, backbone)
    if whole and layout.name == 'official':
        require_same_tap(parts, backbone)
    unused = pop_unused(inside, backbone)
    selected = {f'backbone.{key}': value for key, value in inside.items()} | outside if whole else inside
    description = f'{layout.name} layout of RepViT {layout}{", fused" if layout.fused else ""}'
    return selected, description, [f'{reason} ({count} tensors)' for reason, count in unused.items()]


def split(state: dict, layout: Layout) -> tuple[dict, dict, set[str]]:
    """Return the tensors of a RepViT, those beside it, and the names of the parts of a detector or segmentor.

    All tensors get this package's names.
    """
    inside, outside = {}, {}
    wrapper, _, _ = layout.prefix.rpartition('backbone.')  # beside `module.backbone.` there is `module.neck.`
    for is_inside, key, value in rename_keys(state, layout, 'repvit_dense'):
        if is_inside:
            inside[key] = value
        else:
            outside[key.removeprefix(wrapper)] = value
    parts = {key.removeprefix(layout.prefix).partition('.')[0] for key in outside} - CLASSIFICATION_PARTS
    return inside, outside, parts


def select_for_peer(module: 'base.Peer', state: dict) -> tuple[dict, str, list[str]]:
    """Return the same as `_select`, from the peer's own state dict or from published ImageNet weights."""
    parameters, net = module.state_dict(), module.net.state_dict()
    saved = strip_prefix(state, parameters)
    if parameters.keys() & saved.keys():
        return saved, f'weights of a {type(module).__name__}', []
    if layout := getattr(module, 'layout', None):  # the last step of the ladder is a RepViT
        state = convert(state, layout)
    keys = ', '.join(list(state)[:3])
    try:
        state, unused = module.from_published(strip_prefix(state, net))
    except Exception as error:  # conversions of other packages rely on the names and shapes of their networks
        raise CheckpointError(
            f'weights of another architecture than {module.name}, with keys such as {keys} '
            f'({type(error).__name__}: {error})'
        ) from error
    if not state.keys() & net.keys():
        raise CheckpointError(f'weights of another architecture than {module.name}, with keys such as {keys}')
    for key in net:
        if key in state and net[key].shape != state[key].shape:
            raise CheckpointError(
                f'weights of another variant than {module.name}: {key} is {tuple(state[key].shape)} in the file and '
                f'{tuple(net[key].shape)} in the model; take the weights of this variant'
            )
    selected = {f'net.{key}': value for key, value in state.items()}
    # Output norms or a pyramid were never published with the network; they keep their initial values.
    selected |= {key: value for key, value in parameters.items() if not key.startswith('net.')}
    notes = [f'classifier and other parts that this backbone does not build ({len(unused)} tensors)'] if unused else []
    return selected, f'ImageNet weights of {module.name}', notes


def require_same_variant(layout: Layout, backbone: 'repvit.RepViT') -> None:
    """Refuse the weights of another variant, and fused ones for a network that is not, or the reverse."""
    model = detect_layout(backbone.state_dict())
    built = len(model.depths)  # a backbone without the last stages takes the weights of a longer one
    if (layout.depths[:built], layout.widths[:built]) != (model.depths, model.widths):
        other = f', or use theirs: --backbone {layout.arch}' if layout.arch else ''
        raise CheckpointError(
            f'these weights look like {layout}, the model is {model}; take the weights of this variant{other}'
        )
    if layout.fused and not model.fused:
        raise CheckpointError(
            'these weights are fused, the model is not: build it with deploy=True, or take the training checkpoint'
        )
    if model.fused and not layout.fused:
        raise CheckpointError('the model is fused, these weights are not: load them before switch_to_deploy()')


def require_same_tap(parts: set[str], backbone: 'repvit.RepViT') -> None:
    """Refuse the other tap: the authors' detectors and segmentors differ in it, but not in names and shapes."""
    tap = 'stage_end' if 'decode_head' in parts else 'stage_body'
    if backbone.tap != tap:
        kind = 'segmentor' if tap == 'stage_end' else 'detector'
        raise CheckpointError(
            f"this {kind} of the authors was trained with tap='{tap}', the model has tap='{backbone.tap}' and would "
            f'silently score worse: --cfg-options model.backbone.tap={tap}'
        )


def pop_unused(inside: dict, backbone: 'repvit.RepViT') -> Counter:
    """Remove the classifier and the modules that this backbone does not build; return counts by reason."""
    parameters, last = backbone.state_dict(), len(backbone.stages) - 1
    ends_in_body = isinstance(backbone.stages[last].pre_downsample, nn.Identity)
    unused: Counter[str] = Counter()
    for key in [key for key in inside if key not in parameters]:
        stage = re.match(r'stages\.(\d+)\.', key)
        reason = None
        if key.startswith('head.'):
            reason = 'classifier head'
        elif stage and int(stage[1]) > last:
            reason = f'stage {stage[1]}'
        elif ends_in_body and key.startswith(f'stages.{last}.pre_downsample.'):
            reason = f'last block of stage {last}'
        if reason:
            unused[reason] += 1
            del inside[key]
    return unused


def strip_prefix(state: dict, parameters: dict) -> dict:
    """Return the state dict without the prefix, possibly empty, that matches most of the module's names."""
    first = f'.{next(iter(parameters), "")}'
    prefixes = {''} | {key[: 1 - len(first)] for key in state if f'.{key}'.endswith(first)}
    prefixes = set(sorted(prefixes, key=len)[: 1 + MOST_LOOKUPS // max(1, len(parameters))])
    best = max(prefixes, key=lambda p: (sum(p + name in state for name in parameters), -len(p)))
    return {key.removeprefix(best): value for key, value in state.items()}


def _require_fit(module: nn.Module, state: dict, parameters: dict) -> None:
    """Refuse missing, surplus and misshapen tensors; explain a different number of classes as such."""
    shapes = misshapen(state, parameters)
    problems = [f'{key} is missing' for key in parameters if key not in state]
    problems += [f'{key} has no place in the model' for key in state if key not in parameters]
    if shapes and not problems and (classes := _class_counts(module, shapes.values())):
        raise CheckpointError(
            f'trained for {classes[0]} classes, the model has {classes[1]}: only classification layers differ '
            f'({", ".join(list(shapes)[:3])}). Use a config of {classes[0]} classes, or fine-tune: train --from'
        )
    problems += describe(shapes)
    if problems:
        more = f', and {len(problems) - 5} more ({len(problems)} in all)' if len(problems) > 5 else ''
        name = module.name if isinstance(module, base.Peer) else f'a {type(module).__name__}'
        raise CheckpointError(f'does not fit {name}: {"; ".join(problems[:5])}{more}')


def misshapen(state: Mapping, parameters: Mapping) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Return the shapes in file and model of the tensors in both whose shapes differ."""
    pairs = {key: (state[key].shape, parameters[key].shape) for key in parameters if key in state}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def describe(shapes: Mapping) -> list[str]:
    """Return one text for each tensor of another shape."""
    return [f'{key} is {tuple(a)} in the file and {tuple(b)} in the model' for key, (a, b) in shapes.items()]


def require_sound(state: Mapping, parameters: Mapping) -> dict[str, Tensor]:
    """Return the tensors in the dtypes of the module; refuse those whose values no trained network has."""
    converted, flaws = {}, {}
    with torch.no_grad():
        for key, target in parameters.items():
            flaw = _flaw_of_kind(state[key], target)
            converted[key] = state[key] if flaw else state[key].to(target.dtype)
            flaws[key] = flaw or _flaw_of_values(key, state[key], converted[key])
    listed = [f'{key} {flaw}' for key, flaw in flaws.items() if flaw]
    if listed:
        more = f', and {len(listed) - 5} more ({len(listed)} in all)' if len(listed) > 5 else ''
        raise CheckpointError(
            f'{"; ".join(listed[:5])}{more}. The file is damaged, or its training diverged: take another checkpoint'
        )
    return converted


def _flaw_of_kind(value: Tensor, target: Tensor) -> str | None:
    """Return why a tensor cannot be copied to `target`; None if it can."""
    if value.is_meta and not target.is_meta:
        return 'has no values'
    if _kind(value) != _kind(target):
        return f'holds {_kind(value)} numbers ({value.dtype}) in place of {_kind(target)} ones'
    span = 1 + sum((length - 1) * step for length, step in zip(value.shape, value.stride(), strict=True))
    if value.numel() > span:
        return f'has {value.numel():,} elements, of which the file holds {span:,}'
    return None


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return 'complex'
    return 'floating-point' if tensor.is_floating_point() else 'boolean' if tensor.dtype == torch.bool else 'integer'


def _flaw_of_values(key: str, value: Tensor, converted: Tensor) -> str | None:
    if not converted.is_floating_point() or not converted.numel() or converted.is_meta:
        return None
    low, high = (float(bound) for bound in converted.aminmax())  # NaN if any value is
    if not (math.isfinite(low) and math.isfinite(high)):
        too_large = bool(value.isfinite().all())
        return f'has values too large for {converted.dtype}' if too_large else 'has NaN or infinite values'
    return 'is negative, a variance cannot be' if low < 0 and key.endswith('running_var') else None


def _class_counts(module: nn.Module, shapes: Iterable) -> tuple[int, int] | None:
    """Return the class counts of file and model if they alone explain all differing shapes, else None.

    A classification layer has `per_class * (classes + background)` rows with background 0 or 1.
    """
    if any(a[1:] != b[1:] or not a or not b for a, b in shapes):
        return None
    counts = {m.num_classes for m in module.modules() if isinstance(getattr(m, 'num_classes', None), int)}
    for count in sorted(counts - {0}, reverse=True):
        options = []  # for each layer: class count of the file -> 1 if that assumes a background class, else 0
        for (file_rows, *_), (rows, *_) in shapes:
            per_class = {extra: rows // (count + extra) for extra in (1, 0) if rows and rows % (count + extra) == 0}
            options.append({file_rows // n - extra: extra for extra, n in per_class.items() if file_rows % n == 0})
        if common := set.intersection(*map(set, options)):
            return min(common, key=lambda classes: sum(option[classes] for option in options)), count
    return None


@WEIGHT_INITIALIZERS.register_module()
class DensePretrainedInit:
    """An initialiser that loads weights in any layout; `init_cfg=dict(type='Pretrained')` of a backbone becomes this.

    Args:
        checkpoint: a path, URL or catalogue name as in `read`.
    """

    def __init__(self, checkpoint: str):
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        load_checkpoint(module, self.checkpoint)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'{type(self).__name__}: load from {self.checkpoint}')
