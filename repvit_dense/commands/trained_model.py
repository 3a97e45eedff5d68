"""A trained model in PyTorch that maps images to results and exports itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact.predictor import ImageModel, Predictor
from repvit_dense.compat.quiet import quiet
from repvit_dense.config.structure import datasets, task
from repvit_dense.engine.results import arrays
from repvit_dense.errors import InputError
from repvit_dense.files import is_file
from repvit_dense.model import load_model, predictor

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config


class Model(ImageModel):
    """A trained detector or segmentor with its config.

    Args:
        cfg: a complete config of mmdet or mmseg.
        checkpoint: path or URL.
        device: as in torch; None for a GPU if there is one, else the CPU.
        deploy: fuse the model.
        threads: CPU threads of torch, for the whole process; None leaves them.

    Attributes:
        cfg: the config.
        checkpoint: path or URL that the weights come from.
        network: the `torch.nn.Module` of mmdet or mmseg in eval mode.
        annotations: annotation files of its data, see `repvit_dense.artifact.coco.choose_ids`.

    Raises:
        InputError: the checkpoint cannot be read or does not fit the config, or the device does not exist.
    """

    def __init__(
        self,
        cfg: 'Config',
        checkpoint: str,
        device: str | None = None,
        deploy: bool = False,
        threads: int | None = None,
    ):
        import torch

        if threads is not None:
            if threads < 1:
                raise InputError(f'--threads {threads}: must be 1 or more')
            torch.set_num_threads(threads)
        self.cfg, self.checkpoint = cfg, checkpoint
        self.network = load_model(cfg, checkpoint, device, deploy)
        meta = self.network.dataset_meta
        palette = meta.get('palette')
        self.names = list(meta['classes'])
        self.palette = list(palette) if isinstance(palette, list | tuple) and len(palette) == len(self.names) else None
        self.title = Path(cfg.filename).stem if cfg.filename else Path(checkpoint).stem
        self.task = task(cfg)
        self._predict_sample = predictor(self.network, cfg, self.clock)

    def __repr__(self) -> str:
        return f'Model({self.title}, {len(self.names)} classes, weights of {self.checkpoint})'

    def _predict(self, images: 'list[np.ndarray]') -> list[dict[str, Any]]:
        samples = [self._predict_sample(image) for image in images]
        with self.clock('post-processing'):
            return [arrays(sample, len(self.names)) for sample in samples]

    @property
    def annotations(self) -> list[Path]:
        """The annotation files in COCO's format that exist of the data the config tests and validates on."""
        files = []
        for loader in (self.cfg.get('test_dataloader'), self.cfg.get('val_dataloader')):
            for dataset in datasets(loader.dataset) if loader else ():
                file = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
                if file.suffix == '.json' and is_file(file):
                    files.append(file)
        return list(dict.fromkeys(files))

    def _push(self, repo: str, private: bool, licence: str | None, message: str | None) -> str:
        from repvit_dense.commands.push import push_checkpoint

        return push_checkpoint(self.checkpoint, repo, private, licence, message)

    def export(self, *formats: str, out: str | Path = 'exported', **settings: Any) -> 'Predictor | list[Predictor]':
        """Export the model as artifacts; see `repvit-dense export --help` for the settings.

        Args:
            formats: 'onnx', 'openvino', 'coreml', 'executorch' or 'torch'; one or several.
            out: folder that receives one folder per format.
            settings: `size`, `batch`, `dynamic`, `precision`, `max_detections`, `calibration`, `no_verify`.

        Returns:
            the artifact, ready to predict; a list of them for several formats.

        Raises:
            InputError: a setting does not fit a format, or an artifact differs from the model too much.
        """
        from repvit_dense.exporting.export import export_all
        from repvit_dense.exporting.settings import ExportSettings

        chosen = ExportSettings(to=list(formats), out=Path(out), **settings)
        with quiet():
            rows, errors = export_all(self.cfg.copy(), self.checkpoint, chosen)
        if errors:
            raise InputError('; '.join(f'{name}: {error}' for name, error in errors.items()))
        artifacts = [Predictor(row.folder) for row in rows]
        return artifacts[0] if len(artifacts) == 1 else artifacts
