"""`repvit-dense export`: export a trained model as artifacts."""

import dataclasses
from pathlib import Path

from repvit_dense.commands.base import (
    CHECKPOINT,
    ModelOptions,
    checkpoint_of,
    default_work_dir,
    open_config,
)
from repvit_dense.commands.names import check_names
from repvit_dense.exporting.settings import ExportSettings
from repvit_dense.options import option


@dataclasses.dataclass
class Options(ExportSettings, ModelOptions):
    """Options of `export`."""

    checkpoint: str | Path | None = option(None, positional=True, nargs='?', help=CHECKPOINT)


@dataclasses.dataclass(frozen=True)
class Exports:
    """The outcome of `export`.

    Attributes:
        folders: format -> folder of the verified artifact.
        failed: format -> reason why there is none; it says where an artifact with tied scores was kept.
    """

    folders: dict[str, Path]
    failed: dict[str, str]


def run(options: Options) -> Exports:
    """Export a trained model as artifacts that run without OpenMMLab.

    Raises:
        InputError: an option, the config or the checkpoint cannot be used; nothing was written.
    """
    check_names(options)
    cfg = open_config(options, default_work_dir(options))
    checkpoint = checkpoint_of(options, options.checkpoint)
    from repvit_dense.exporting.export import export_all
    from repvit_dense.exporting.results import print_table

    rows, failed = export_all(cfg, checkpoint, options)
    print_table(rows)
    return Exports({row.target: row.folder for row in rows}, failed)
