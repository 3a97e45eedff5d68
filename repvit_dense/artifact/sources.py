"""Find the images and videos to predict: files, folders, patterns, addresses, cameras."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from repvit_dense.artifact.download import file_name, is_url, leads_to_video, without_password
from repvit_dense.artifact.images import ImageInput
from repvit_dense.artifact.pictures import is_picture
from repvit_dense.artifact.video import PLAYLISTS, Video, open_video
from repvit_dense.artifact.video import SUFFIXES as VIDEO_SUFFIXES
from repvit_dense.data.reading import SUFFIXES, is_image_name
from repvit_dense.errors import InputError
from repvit_dense.files import is_folder, walk
from repvit_dense.image_header import MAX_PIXELS
from repvit_dense.screen import say

STREAMS = r'(rtsps?|rtmps?|rtp|udp|tcp|srt)://'
CAMERA = 'webcam'


@dataclass(frozen=True)
class Source:
    """An image or a video to predict.

    Attributes:
        name: for results and messages; passwords are hidden in it.
        file: its path, or a name for the files of its results.
        content: a path or an address of an image, a video, or the reason why it cannot be read.
    """

    name: str
    file: Path
    content: Path | str | Video | InputError

    @property
    def is_video(self) -> bool:
        """Tell whether it has frames; so does a video file that cannot be opened."""
        return isinstance(self.content, Video) or _is_video_name(self.file)


def find(names: Iterable[str | Path]) -> list[Source]:
    """Return all images and videos that names stand for, each once.

    A name is a file, a folder, which is searched recursively for images, a pattern such as `photos/**/*.jpg`, the
    address of an image or a stream, `webcam`, or the number of a camera. A file or folder of that name wins. Pictures
    of earlier predictions are left out in folders and patterns. A subfolder that cannot be read takes the place of an
    image, which fails; so does a video file that cannot be opened, unless it is the only source.

    Raises:
        InputError: a file, folder, stream or camera does not exist, or a folder or pattern holds no image.
    """
    sources: dict[str, Source] = {}
    count = 0
    for name in map(str, names):
        for source in _expand(name):
            count += 1
            sources.setdefault(_identity(source), source)
    if len(sources) < count:
        say(f'{count - len(sources)} images are named more than once; each is predicted once')
    listed = list(sources.values())
    if not listed:
        raise InputError('there is no image to predict; name images, folders of them, videos, or a camera')
    if len(listed) == 1 and isinstance(listed[0].content, InputError):
        raise listed[0].content
    return listed


def images(sources: Iterable[Source], max_pixels: int = MAX_PIXELS) -> Iterator[tuple[Source, ImageInput | InputError]]:
    """Yield each source with its image, a video with each of its frames; and the error that ends a video."""
    for source in sources:
        if not isinstance(source.content, Video):
            yield source, source.content
            continue
        try:
            for frame in source.content.frames(max_pixels):
                yield source, frame
        except InputError as error:
            yield source, error


def _identity(source: Source) -> str:
    if isinstance(source.content, str):
        return source.content
    if isinstance(source.content, Video) and source.content.name != str(source.file):
        return str(source.content.address)
    return os.path.join(os.path.realpath(source.file.parent), source.file.name)  # noqa: PTH118


def _expand(name: str) -> list[Source]:
    path = Path(name)
    camera = 0 if name == CAMERA else int(name) if re.fullmatch(r'\d{1,2}', name) else None
    if os.path.lexists(path):
        if camera is not None:
            say(f'{name}: the file or folder of this name is predicted; rename it to use camera {camera}')
        return _in_folder(path) if is_folder(path) else [_file(path)]
    if camera is not None:
        say(f'{name}: camera {camera} is predicted until Ctrl-C')
        return [Source(name, Path(f'camera-{camera}'), open_video(name, camera))]
    if is_url(name):
        return [_address(name)]
    if re.match(STREAMS, name, re.I):
        shown = without_password(name)
        return [Source(shown, Path(file_name(name)), open_video(shown, name))]
    if '://' in name:
        raise InputError(f'{without_password(name)}: this protocol is not read; http, https and rtsp are')
    if any(sign in name for sign in '*?['):
        return _matching(name)
    raise InputError(f'{path}: no such image or folder')


def _file(path: Path) -> Source:
    if not _is_video_name(path):
        return Source(str(path), path, path)
    try:
        return Source(str(path), path, open_video(str(path), path))
    except InputError as error:
        return Source(str(path), path, error)


def _address(url: str) -> Source:
    shown, suffix = without_password(url), Path(file_name(url)).suffix.lower()
    is_stream = suffix in (*VIDEO_SUFFIXES, *PLAYLISTS)
    if is_stream or (suffix not in SUFFIXES and leads_to_video(url)):
        return Source(shown, Path(file_name(url)), open_video(shown, url))
    return Source(shown, Path(file_name(url)), url)


def _in_folder(folder: Path) -> list[Source]:
    """Return the images of a folder and its subfolders."""
    files = list(walk(folder, keep_unreadable=True))
    paths = sorted(file for file in files if is_image_name(file) or is_folder(file))
    paths = _without_pictures(folder, paths)
    videos = [file for file in files if _is_video_name(file) and not is_picture(file)]
    pattern = f'{folder}/**/*{videos[0].suffix}' if videos else ''
    if not paths:
        remedy = f"; for its videos: '{pattern}'" if videos else ''
        raise InputError(f'{folder}: no image in this folder ({", ".join(SUFFIXES)}){remedy}')
    if videos:
        say(f"{folder}: {len(videos)} videos in this folder are left out; name them, or use '{pattern}'")
    return [Source(str(path), path, path) for path in paths]


def _matching(pattern: str) -> list[Source]:
    """Return the images and videos that match a pattern; `**` stands for any folders, links are not followed."""
    parts = Path(pattern).expanduser().parts
    start = next(number for number, part in enumerate(parts) if any(sign in part for sign in '*?['))
    rest = [*parts[start:], *(['*'] if parts[-1] == '**' else [])]
    try:
        matches = sorted(set(Path(*parts[:start]).glob(str(Path(*rest)))))
    except (OSError, ValueError, NotImplementedError, re.error) as error:
        raise InputError(f'{pattern}: cannot be used as a pattern ({error})') from error
    files = [path for path in matches if (is_image_name(path) or _is_video_name(path)) and not is_folder(path)]
    files = _without_pictures(pattern, files)
    if not files:
        raise InputError(f'{pattern}: no image or video has a name of this pattern, and no file is called so')
    return [_file(path) for path in files]


def _without_pictures(place: object, paths: list[Path]) -> list[Path]:
    """Leave out pictures of earlier predictions, and say so."""
    rest = [path for path in paths if not is_picture(path)]
    if len(rest) < len(paths):
        say(f'{place}: {len(paths) - len(rest)} pictures of earlier predictions in this folder are left out')
    return rest


def _is_video_name(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith('._')
