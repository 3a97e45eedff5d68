"""Start a model from the weights of another one: load the parts that fit, start layers of other classes anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from repvit_dense.backbones import base, repvit
from repvit_dense.checkpoints.layouts import detect_layout, extract_state_dict
from repvit_dense.checkpoints.loading import (
    describe,
    misshapen,
    pop_unused,
    require_same_tap,
    require_same_variant,
    require_sound,
    select_for_peer,
    split,
    strip_prefix,
)
from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.errors import printable

SHOWN = 6  # names in a message
COUNTER = 'num_batches_tracked'  # old files lack it; at a fixed momentum it changes nothing
CONTAINERS = ('roi_head',)  # whose children are parts of their own: a detector without masks gives its box head
GO_ON = 'Take weights of a model with this backbone, or use theirs: --backbone NAME'


@dataclass(frozen=True)
class Classes:
    """The classes of a model.

    Attributes:
        names: in order.
        layers: the tensors whose shape depends on the number of classes, with their rows per class; 0 for another
            dependence than that of the first dimension.
        trained: the classes of the checkpoint, in order; None if it names none.
    """

    names: Sequence[str]
    layers: Mapping[str, int]
    trained: Sequence[str] | None

    @property
    def are_the_same(self) -> bool:
        """Return whether the checkpoint was trained on the same classes in the same order."""
        return self.trained is not None and list(self.trained) == list(self.names)


@dataclass
class _Plan:
    values: dict[str, Tensor] = field(default_factory=dict)  # name in the model -> value
    by_name: list[str] = field(default_factory=list)  # tensors with some rows from the file
    restarted: list[str] = field(default_factory=list)  # tensors that depend on the classes
    other_parts: list[str] = field(default_factory=list)  # parts that the file lacks or has in another form


def transfer(model: nn.Module, checkpoint: Mapping, name: str, classes: Classes) -> str:
    """Load the parts that fit of a checkpoint into a detector or segmentor; the rest keeps its initial values.

    The backbone has to fit. If neck and heads have the same tensors in the file, all shapes must agree but those that
    depend on the number of classes; if a part differs, the file is of another head, and each part that fits is loaded.
    A layer that depends on the classes is loaded if these are the same in the same order. Else it starts anew; if it
    has one row for each class (and one for the background), rows of classes with the same name are copied. A file with
    the weights of a backbone alone gives that.

    Args:
        model: a network of mmdet or mmseg with a `backbone`. On the device meta, the checkpoint is only checked.
        checkpoint: content of the file, see `reading.read`.
        name: of the file, for messages.
        classes: of the model and the checkpoint.

    Returns:
        a line that says how much was loaded and what starts anew.

    Raises:
        CheckpointError: the checkpoint does not fit. The model is unchanged.
    """
    parameters = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    try:
        state, _ = extract_state_dict(checkpoint)
        plan = _plan(model, _rename(model, state), parameters, classes)
        converted = require_sound(plan.values, {key: parameters[key] for key in plan.values})
    except CheckpointError as error:
        raise CheckpointError(f'{name}: {error}') from None
    with torch.no_grad():
        for key, value in converted.items():
            parameters[key].copy_(value)
    return _describe(plan, parameters, printable(name), classes)


def _rename(model: nn.Module, state: dict) -> dict:
    """Return the tensors of a checkpoint under the names of the model."""
    backbone, parameters = model.backbone, model.state_dict()
    if isinstance(backbone, repvit.RepViT):
        layout = detect_layout(state)
        require_same_variant(layout, backbone)
        inside, outside, parts = split(state, layout)
        pop_unused(inside, backbone)
        if layout.name == 'official' and parts >= {key.partition('.')[0] for key in parameters} - {'backbone'}:
            require_same_tap(parts, backbone)
        return {f'backbone.{key}': value for key, value in inside.items()} | outside
    renamed = strip_prefix(state, parameters)
    if isinstance(backbone, base.Peer) and not any(
        key.startswith('backbone.') and key in renamed for key in parameters
    ):
        selected, _, _ = select_for_peer(backbone, state)
        return {f'backbone.{key}': value for key, value in selected.items()}
    return renamed


def _plan(model: nn.Module, state: dict, parameters: Mapping, classes: Classes) -> _Plan:
    """Choose the value of each tensor of the model that gets one."""
    dependent = {} if classes.are_the_same else classes.layers
    state = state | {key: value for key, value in parameters.items() if key.endswith(COUNTER) and key not in state}
    peer = isinstance(model.backbone, base.Peer)
    there, here = (_by_part(tensors, peer) for tensors in (state, parameters))
    misfits = {key: pair for key, pair in misshapen(state, parameters).items() if key not in dependent}
    other = [part for part, keys in here.items() if there.get(part, set()) != keys]
    if 'backbone' in other or any(_part(key, peer) == 'backbone' for key in misfits):
        raise CheckpointError(f'the backbone does not fit: {_problems(there, here, misfits)}. {GO_ON}')
    if misfits and not other:
        raise CheckpointError(
            f'its parts are those of the model, but of another size: {_few(describe(misfits), "; ")}. Set the sizes of '
            'the model that it was trained with, or start from weights of this model'
        )
    unfit = {*other, *(_part(key, peer) for key in misfits)}
    plan = _Plan(other_parts=[part for part in here if part in unfit])
    for key, value in parameters.items():
        if _part(key, peer) in unfit:
            continue
        if key not in dependent:
            plan.values[key] = state[key]
        elif (merged := _copy_rows(value, state[key], dependent[key], classes)) is not None:
            plan.values[key] = merged
            plan.by_name.append(key)
        else:
            plan.restarted.append(key)
    return plan


def _part(key: str, peer: bool) -> str:
    """Return the part of the model that a tensor belongs to; the norms behind a peer's network are a part too."""
    names = key.split('.')
    if peer and names[0] == 'backbone' and names[1:2] != ['net']:
        return '.'.join(names[:2])
    return '.'.join(names[: 2 if names[0] in CONTAINERS else 1])


def _by_part(tensors: Mapping, peer: bool) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = {}
    for key in tensors:
        parts.setdefault(_part(key, peer), set()).add(key)
    return parts


def _problems(there: Mapping, here: Mapping, misfits: Mapping) -> str:
    """Return why the backbone does not fit."""
    file, model = (parts.get('backbone', set()) for parts in (there, here))
    problems = [f'{key} is missing' for key in sorted(model - file)]
    problems += [f'{key} has no place in the model' for key in sorted(file - model)]
    return _few([*problems, *describe({key: pair for key, pair in misfits.items() if key in model})], '; ')


def _copy_rows(value: Tensor, source: Tensor, rows: int, classes: Classes) -> Tensor | None:
    """Return a tensor with the rows of the classes of the same name, and of the background; None if that is unclear.

    Several rows per class may be ordered by class or by anchor, so these are not copied.
    """
    old, new = (_positions(names) for names in (classes.trained or (), classes.names))
    if old is None or new is None or rows != 1:
        return None
    background, pairs = value.shape[0] - len(new), [(new[name], old[name]) for name in new if name in old]
    if background not in (0, 1) or not pairs or source.shape != (len(old) + background, *value.shape[1:]):
        return None
    if source.is_floating_point() != value.is_floating_point():
        return None
    pairs += [(len(new), len(old))] * background
    targets, sources = map(list, zip(*pairs, strict=True))
    merged = value.detach().clone()
    merged[targets] = source[sources].to(merged)
    return merged


def _positions(names: Sequence[str]) -> dict[str, int] | None:
    """Return the position of each name; None if one occurs twice."""
    positions = {name: i for i, name in enumerate(names)}
    return positions if len(positions) == len(names) else None


def _describe(plan: _Plan, parameters: Mapping, name: str, classes: Classes) -> str:
    loaded = sum(parameters[key].numel() for key in plan.values)
    total = sum(value.numel() for value in parameters.values())
    count = f'{len(plan.values)} of {len(parameters)} tensors ({100 * loaded // total}% of the parameters)'
    if len(plan.values) == len(parameters):
        count = f'all {len(parameters)} tensors'
    parts = [f'{count} from {name}']
    if plan.by_name:
        trained = set(classes.trained or ())
        shared = [name for name in classes.names if name in trained]
        parts.append(f'in {_layers(plan.by_name)} only the rows of the classes {_few(shared)}')
    if plan.restarted:
        reason = 'because the classes differ' if classes.trained else 'because the file names no classes'
        parts.append(f'started anew {reason}: {_layers(plan.restarted)}')
    if plan.other_parts:
        parts.append(f'started anew because the file has none that fits: {_few(plan.other_parts)}')
    return '; '.join(parts)


def _layers(keys: Sequence[str]) -> str:
    return _few(list(dict.fromkeys(key.rpartition('.')[0] for key in keys)))


def _few(names: Sequence[str], separator: str = ', ') -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return separator.join(map(printable, names[:SHOWN])) + more
