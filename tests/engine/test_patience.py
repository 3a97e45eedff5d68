"""A training whose score no longer improves ends, and so does one that is resumed."""

import logging
from types import SimpleNamespace

import pytest
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub

from repvit_dense.engine.patience import DensePatienceHook

PATIENCE = {'type': 'DensePatienceHook', 'patience': 2}


class Scores(BaseMetric):
    """A metric whose scores are given."""

    default_prefix = 'toy'

    def __init__(self, scores):
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'mAP': next(self.scores)}


def run(toy, folder, scores, epochs=6, **kwargs):
    checkpoint = {'type': 'CheckpointHook', 'interval': 1, 'save_best': 'toy/mAP', 'rule': 'greater'}
    runner = toy(
        folder,
        hooks=[PATIENCE],
        val_evaluator=[Scores(scores)],
        default_hooks={'checkpoint': checkpoint},
        train_cfg={'type': 'DenseEpochLoop', 'max_epochs': epochs, 'val_interval': 1},
        **kwargs,
    )
    runner.train()
    return runner


@pytest.mark.parametrize(
    'scores, rule, validations',
    [
        ([0.1, 0.3, 0.2, 0.3, 1], 'greater', 4),
        ([0, 0, 0, 0], 'greater', 3),
        ([0.1, 0.2, 0.1, 0.3, 0.4, 0.5], 'greater', 6),
        ([3, 2, 2.5, 2, 1], 'less', 4),
        ([float('nan')] * 3, 'greater', 2),
    ],
)
@pytest.mark.parametrize('save_best', ['toy/mAP', 'auto'])
def test_the_end(scores, rule, validations, save_best):
    hub = MessageHub('patience')
    loop = SimpleNamespace(stop_training=False)
    hooks = [CheckpointHook(save_best=save_best, rule=rule)]
    runner = SimpleNamespace(iter=0, message_hub=hub, hooks=hooks, train_loop=loop, logger=logging.getLogger('x'))
    hook = DensePatienceHook(2)
    hook.before_train(runner)
    count = 0
    while not loop.stop_training and count < len(scores):
        hook.after_val_epoch(runner, {'toy/mAP': scores[count], 'toy/other': 0})
        count += 1
    assert count == validations


def test_a_resumed_training_goes_on_counting(toy, tmp_path):
    """The validation after the checkpoint is run again."""
    run(toy, tmp_path, [0.5, 0.4], epochs=2)
    after = run(toy, tmp_path, [0.4, 0.4, 0.4, 0.4], resume=True, load_from=str(tmp_path / 'epoch_2.pth'))
    assert after.epoch == 3


def test_a_training_that_was_ended_stays_ended(toy, tmp_path):
    run(toy, tmp_path, [0.5, 0.4, 0.3])
    assert run(toy, tmp_path, [0.3, 0.9, 0.9], resume=True).epoch == 3
