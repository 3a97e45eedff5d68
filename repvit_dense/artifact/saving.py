"""Write the results of a run into its folder as they come: pictures, JSON, crops, masks, COCO's format and video."""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repvit_dense.artifact import coco, pictures, video
from repvit_dense.artifact.result import Result
from repvit_dense.artifact.sources import Source
from repvit_dense.files import replacing
from repvit_dense.page import PAGE, Entries, write_page

LINES, LIST = 'predictions.jsonl', 'predictions.json'
MASKS, CROPS = 'masks', 'crops'  # folders


@dataclass(frozen=True)
class Wanted:
    """Choose the files that a run writes beside `predictions.jsonl` and `predictions.json`.

    Attributes:
        kinds: of the choices of `predict --save`.
        pictures: a picture per image and a page of them.
        score: objects below this score are left out.
    """

    kinds: frozenset[str] = frozenset()
    pictures: bool = True
    score: float = 0.0


class Output:
    """The folder of a run; the lists of an earlier run are removed when the first result is written.

    Args:
        folder: an existing folder.
        sources: everything that is predicted.
        wanted: what is written.
        results: COCO's format, if it is wanted.
    """

    def __init__(self, folder: Path, sources: Sequence[Source], wanted: Wanted, results: coco.CocoResults | None):
        self.folder, self.wanted, self.results = folder, wanted, results
        files = [source.file for source in sources]
        videos = [source.is_video for source in sources]
        self._names = dict(zip(map(id, sources), pictures.output_names(files, folder, videos), strict=True))
        self._inputs = {os.path.realpath(file) for file in files}
        self._shown: list[tuple[Path, str, Path | None]] = []  # picture, caption, original
        self._video: Any = None  # a function that appends a picture, and the source it belongs to
        self._stack = ExitStack()
        self.count = 0
        self.videos: list[Path] = []

    def draws(self, source: Source) -> bool:
        """Return whether results of this source are drawn."""
        return 'video' in self.wanted.kinds if source.is_video else self.wanted.pictures

    def add(self, source: Source, result: Result, picture: np.ndarray | None) -> None:
        """Write a result: its files and a line of `predictions.jsonl`.

        Args:
            source: origin of the result.
            result: the prediction.
            picture: the drawn result, see `draws`.
        """
        name = self._names[id(source)]
        entry: dict[str, Any] = {'image': source.name}
        if result.frame is not None:
            entry |= {'frame': result.frame, 'time': result.seconds}
            name = f'{name}-{result.frame:06d}'
        elif picture is not None:
            entry['picture'] = name + pictures.PICTURE
        segment_map = result.segment_map()
        if segment_map is None:
            entry['objects'] = result.objects(self.wanted.score)
        else:
            if result.frame is None or 'masks' in self.wanted.kinds:
                entry['segment_map'] = name + pictures.SEGMENTS
            entry['segments'] = result.regions()
        line = json.dumps(entry, allow_nan=False)
        if segment_map is not None and 'segment_map' in entry:
            pictures.write_picture(self.folder / entry['segment_map'], segment_map)
        file = self.folder / entry.get('picture', '')
        if picture is not None and 'picture' in entry:
            pictures.write_picture(file, picture)
        elif picture is not None and 'video' in self.wanted.kinds:
            self._append_frame(source, picture)
        self._write_parts(name, result)
        if self.results:
            self.results.add(source.name, name, result, self.wanted.score)
        if not self.count:
            self._remove_lists()
        with (self.folder / LINES).open('a', encoding='utf-8') as lines:
            lines.write(f'{line}\n')
        self.count += 1
        if 'picture' in entry:  # after everything that may fail: pictures and lines of the page correspond
            self._shown.append((file, source.name, source.content if isinstance(source.content, Path) else None))

    def _write_parts(self, name: str, result: Result) -> None:
        """Write the masks and crops of objects, each as a picture."""
        for kind, folder, suffix in (('masks', MASKS, '.png'), ('crops', CROPS, '.jpg')):
            if kind not in self.wanted.kinds or result.boxes is None:
                continue
            parts = result.crops(self.wanted.score) if kind == 'crops' else result.mask_images(self.wanted.score)
            for number, (label, pixels) in enumerate(parts, start=1):
                class_name = pictures.safe_name(result.names[label])
                place = self.folder / folder / class_name if kind == 'crops' else self.folder / folder
                stem = f'{name}-{number}' if kind == 'crops' else f'{name}-{number}-{class_name}'
                place.mkdir(parents=True, exist_ok=True)
                pictures.write_picture(pictures.free_path(place / f'{stem}{suffix}', self._inputs), pixels)

    def _append_frame(self, source: Source, picture: np.ndarray) -> None:
        if self._video is None or self._video[0] is not source:
            self._stack.close()
            file = self.folder / (self._names[id(source)] + pictures.VIDEO)
            rate = source.content.rate if isinstance(source.content, video.Video) else video.USUAL_RATE
            self._video = source, self._stack.enter_context(video.writing(file, rate, picture.shape[1::-1]))
            self.videos.append(file)
        self._video[1](picture)

    def finish(self, title: str, names: Sequence[str], palette: Sequence | None) -> Path | None:
        """Finish videos, write the lists and the page; return the page, or None without pictures."""
        self._stack.close()
        if not self.count:
            self._remove_lists()
        with_picture = []
        with replacing(self.folder / LIST) as partial, partial.open('w', encoding='utf-8') as file:
            file.write('[')
            with (self.folder / LINES).open(encoding='utf-8') as lines:
                for position, line in enumerate(lines):
                    file.write((',\n' if position else '') + line.rstrip('\n'))
                    if '"picture": ' in line:
                        with_picture.append(line.rstrip('\n'))
            file.write(']\n')
        if self.results:
            self.results.finish()
        if not self.wanted.pictures or (self.count and not self._shown):
            return None
        captions = {file: caption for file, caption, _ in self._shown}
        entries = Entries(with_picture, names, palette, [original for _, _, original in self._shown])
        return write_page(self.folder, title, captions, f'Predictions of {title}', entries=entries)

    def close(self) -> None:
        """Finish videos after an error; nothing else is written."""
        self._stack.close()

    def _remove_lists(self) -> None:
        for name in (LIST, PAGE, coco.RESULTS, coco.IMAGES):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / LINES).write_text('')
