"""A trained model in PyTorch that maps images to results and exports itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact.predictor import ImageModel, Predictor
from repvit_dense.engine.results import arrays
from repvit_dense.errors import InputError
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
        self._predict_sample = predictor(self.network, cfg)

    def __repr__(self) -> str:
        return f'Model({self.title}, {len(self.names)} classes, weights of {self.checkpoint})'

    def _predict(self, images: 'list[np.ndarray]') -> list[dict[str, Any]]:
        return [arrays(self._predict_sample(image), len(self.names)) for image in images]

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
        rows, errors = export_all(self.cfg.copy(), self.checkpoint, chosen)
        if errors:
            raise InputError('; '.join(f'{name}: {error}' for name, error in errors.items()))
        artifacts = [Predictor(row.folder) for row in rows]
        return artifacts[0] if len(artifacts) == 1 else artifacts
