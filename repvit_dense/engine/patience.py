"""Stop a training whose validation score no longer improves."""

import math

from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DensePatienceHook(Hook):
    """A hook that ends the training after a number of validations without a better score.

    The score is the one that `CheckpointHook` selects the best checkpoint by (`save_best`, `rule`). Best score and
    count are part of every checkpoint, so a resumed training goes on counting. A score that is no number is not better.

    Args:
        patience: number of validations.
    """

    priority = 'LOW'  # before CheckpointHook, so that a checkpoint of this moment holds the count

    def __init__(self, patience: int):
        self.patience = patience

    def before_train(self, runner) -> None:
        """End a resumed training that was ended before."""
        if runner.iter:
            self._decide(runner)
        else:
            runner.message_hub.update_info('patience_best', None)
            runner.message_hub.update_info('patience_count', 0)

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Compare the score with the best one."""
        saver = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        names = getattr(saver, 'key_indicators', None) or ['auto']
        name = next(iter(metrics or {}), '') if names[0] == 'auto' else names[0]
        score = (metrics or {}).get(name)
        if score is None:
            runner.logger.warning(f'--patience: the validation gave no score {name}')
            return
        best = runner.message_hub.runtime_info.get('patience_best')
        smaller = (getattr(saver, 'rules', None) or ['less' if 'loss' in name else 'greater'])[0] == 'less'
        better = math.isfinite(score) and (best is None or (score < best if smaller else score > best))
        count = 0 if better else runner.message_hub.runtime_info.get('patience_count', 0) + 1
        runner.message_hub.update_info('patience_count', count)
        if better:
            runner.message_hub.update_info('patience_best', float(score))
        self._decide(runner, name)

    def _decide(self, runner, name: str = 'score') -> None:
        info = runner.message_hub.runtime_info
        count, best = info.get('patience_count', 0), info.get('patience_best')
        if count >= self.patience:
            shown = 'no score yet' if best is None else f'best {name} {best:.4g}'
            runner.logger.info(
                f'Training ends after iteration {runner.iter}: no better score in {count} validations ({shown}; '
                f'--patience {self.patience})',
                extra={'screen': True},
            )
            runner.train_loop.stop_training = True
