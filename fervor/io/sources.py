"""Images, folders, videos and webcams -> one stream of frames; an unreadable one says why.

Only the decoders in `FORMATS` ever run, and an image's size is read from its header before a pixel
is decoded.
"""

import base64
import io
import os
import stat
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from threading import Lock
from typing import BinaryIO, TypeGuard, cast
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fervor.errors import FervorError, InputError, counted
from fervor.io.frame import WEBCAM, Frame, Span
from fervor.io.image import rgb_image, to_rgb
from fervor.io.image_header import check_header, is_heif, read_header
from fervor.io.prefetch import map_ordered, prefetch
from fervor.io.video import ENDINGS as VIDEO_ENDINGS
from fervor.io.video import check_webcam, is_container, need_av, read_video, read_webcam


__all__ = [
    "ENDINGS",
    "VIDEO_ENDINGS",
    "Frame",
    "ImageLike",
    "Span",
    "decode_image",
    "find",
    "frame_of",
    "frames_of",
    "is_animated",
    "is_moving",
    "is_video",
    "is_webcam",
    "open_inputs",
    "read",
    "read_image",
    "readable_frame",
    "skipped_files",
    "unusable_files",
]

ImageLike = str | os.PathLike[str] | bytes | bytearray | BinaryIO | Image.Image | NDArray[np.uint8]
"""A path, a data URL in base64, a file's bytes, an open file, a PIL image of any mode, or an array
uint8: RGB [h w 3], RGBA [h w 4] or grey [h w]. OpenCV's arrays are BGR: `image[:, :, ::-1]`."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")
ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".apng", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff"),
    *(".heic", ".heif"),
)
"""What counts as an image in a folder, in any case."""

ANIMATED = (".gif", ".png", ".apng", ".webp", ".avif")
"""Endings of images that may be animated."""
SHORTEST, USUAL = 20, 100
"""Milliseconds: an image of an animation that says less has the usual time, as in browsers."""

NAMED_ENDINGS = 6
"""Endings of skipped files that are named, the most frequent first."""

HEIF = "HEIF"
START = 256
"""Bytes that tell what a file is."""

WHOLE = Span()
PREFETCH_PIXELS = 16_000_000
"""Frames that wait decoded: so many pixels (64 MB of images) together, and always one."""

SILENCE = 10.0
"""Seconds after which a webcam that gives no image has stopped; some take three to start."""
MAX_PIXELS = 128_000_000
"""Above the largest common camera (108 megapixels); half a gigabyte as RGB while it is decoded."""

EMPTY = "the file is empty (0 bytes)"
DATA_URL = "data:"
LONGEST_NAME = 4096
"""Characters of a path; more are no path but, by all appearance, a file's content."""

URL_SAFE = str.maketrans("-_", "+/")
ORIENTATION = 0x0112
UPRIGHT = 1


class _Silence:
    """No warnings of damaged metadata, nor of sizes that are checked here, in any of its blocks.

    Filters of warnings are the whole process's: of blocks in several threads the first one changes
    them and the last one puts them back.
    """

    def __init__(self) -> None:
        self._lock, self._blocks = Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._blocks += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                self._filters.__exit__(None, None, None)


_silence = _Silence()


def open_inputs(
    inputs: Sequence[str | os.PathLike[str]], *, span: Span = WHOLE, max_pixels: int = MAX_PIXELS
) -> Generator[Frame]:
    """The frames of all inputs (images, folders, videos, webcams) in order.

    Raises:
        InputError: at once, not at the first frame: an input does not exist, or a folder holds no
            image and no video.
        UsageError: a video is named and PyAV is not installed.
    """
    return read(find(inputs), span=span, max_pixels=max_pixels)


def read(
    sources: Iterable[str],
    *,
    span: Span = WHOLE,
    max_pixels: int = MAX_PIXELS,
    decoders: int = 1,
) -> Generator[Frame]:
    """The frames of files and webcams, in order, decoded ahead by a thread in bounded memory.

    `span` says which frames of a video or webcam are read; so many `decoders` decode images that
    follow each other at a time. Of a webcam's frames the newest alone waits, with its own number
    and time: a slow reader does not fall behind.
    """
    frames = _read(sources, span, max_pixels, decoders)
    return prefetch(
        frames, weight=lambda frame: frame.pixels, limit=PREFETCH_PIXELS, replaces=_is_newer
    )


def _is_newer(frame: Frame, waiting: Frame) -> bool:
    """Whether both are of one reading of a webcam; that it stopped is no newer frame."""
    following = frame.source == waiting.source and frame.frame > waiting.frame
    return waiting.live and frame.live and frame.moving and following


def _read(sources: Iterable[str], span: Span, max_pixels: int, decoders: int) -> Generator[Frame]:
    decode = partial(read_image, max_pixels=max_pixels)
    for moving, several in groupby(sources, is_moving):
        if moving:
            yield from _read_moving(several, span, max_pixels)
        else:
            yield from map_ordered(
                decode, several, decoders, weight=_stated_pixels, limit=PREFETCH_PIXELS
            )


def _stated_pixels(source: str) -> int:
    """Pixels of an image as its header states them; 0 where it states none."""
    try:
        _check_file(source)
        with open(source, "rb") as file:
            header = read_header(file)
    except (InputError, OSError):  # reading it says why
        return 0
    return 0 if header is None else header.pixels


def _read_moving(sources: Iterable[str], span: Span, max_pixels: int) -> Generator[Frame]:
    for source in sources:
        if is_webcam(source):
            yield from _read_live(source, span, max_pixels)
        elif is_animated(source):
            yield from _read_animation(source, span, max_pixels)
        elif reason := _unreadable(source):
            yield Frame(source, 0, None, None, reason)
        else:
            yield from read_video(source, span, max_pixels=max_pixels)


def _read_live(source: str, span: Span, max_pixels: int) -> Generator[Frame]:
    """A webcam's frames; one that gives none for a while has stopped, whatever it waits for."""
    number = 0
    frames = prefetch(
        read_webcam(source, span, max_pixels=max_pixels),
        weight=lambda frame: frame.pixels,
        limit=PREFETCH_PIXELS,
        replaces=_is_newer,
        silence=SILENCE,
    )
    try:
        for frame in frames:
            number = frame.frame + 1
            yield frame
    except TimeoutError:
        reason = f"the webcam stopped: it gave no image for {SILENCE:g} seconds"
        yield Frame(source, number, None, None, reason, live=True)


def _read_animation(source: str, span: Span, max_pixels: int) -> Generator[Frame]:
    """The images of an animation at their times; what cannot be decoded is the last frame."""
    number, time, milliseconds = -1, 0.0, 0.0  # these add up without the error of seconds
    try:
        with open(source, "rb") as file, ExitStack() as stack:
            with _silence:  # never while a frame is handed out: nobody may ask for the next one
                image = stack.enter_context(_opened(file, max_pixels))
                # Before an APNG's animation there may be an image for viewers that show no other.
                first = int(bool(getattr(image, "default_image", False)))
                count = getattr(image, "n_frames", 1) - first
            for number in range(count):
                with _silence:
                    image.seek(first + number)
                    pixels = rgb_image(_upright(image)).copy()
                length = float(image.info.get("duration", 0) or 0)
                if time >= span.end:
                    return
                if time >= span.start and number % span.every == 0:
                    yield Frame(source, number, time, pixels, None)
                milliseconds += length if length >= SHORTEST else USUAL
                time = round(milliseconds / 1000, 6)
    except Exception as error:
        yield Frame(source, max(0, number), time, None, _reason(error))


def is_animated(source: str, content: bytes | None = None) -> bool:
    """Whether a path is an image that moves: a GIF, PNG, WebP or AVIF of several frames.

    Where the file's `content` is at hand, only the ending counts of the path.
    """
    if os.path.splitext(source)[1].lower() not in ANIMATED:
        return False
    try:
        if content is None:
            _check_file(source)
        with open(source, "rb") if content is None else io.BytesIO(content) as file:
            header = read_header(file)
    except (InputError, OSError, ValueError):  # reading it says why
        return False
    return header is not None and header.format in FORMATS[1:5] and header.frames > 1


def is_moving(source: str) -> bool:
    """Whether a path or name gives frames with times: a video, a webcam or an animated image."""
    if len(source) > LONGEST_NAME:  # a picture as a text
        return False
    return is_webcam(source) or is_video(source) or is_animated(source)


def _unreadable(video: str) -> str | None:
    try:
        _check_file(video)
        need_av(os.path.basename(video))
    except Exception as error:
        return _reason(error)
    return None


def is_webcam(source: str) -> bool:
    """Whether it names a webcam, as "webcam:0" does."""
    return source.startswith(WEBCAM) and not os.path.lexists(source)


def is_video(source: str) -> bool:
    """Whether a path is read as a video: by its ending, and by its start where that is unknown."""
    ending = os.path.splitext(source)[1].lower()
    if ending in (*ENDINGS, *VIDEO_ENDINGS):
        return ending in VIDEO_ENDINGS
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            return False
        with open(source, "rb") as file:
            start = file.read(START)
    except (OSError, ValueError):  # a name that no file can have, with a null byte, is a value
        return False
    return is_container(start) and not is_heif(start)


def find(
    inputs: Sequence[str | os.PathLike[str]], *, skipped: Counter[str] | None = None
) -> list[str]:
    """The files and webcams that the inputs stand for; folders recursively, sorted, by endings.

    `skipped` counts, by their endings, the files of folders that are no input.

    Raises:
        InputError: an input does not exist, or a folder holds no image and no video.
        UsageError: a video or webcam is named and PyAV is not installed.
    """
    paths: list[str] = []
    for name in inputs:
        source = os.fspath(name)
        if is_webcam(source):
            check_webcam(source)
            paths.append(source)
        elif os.path.isdir(source):
            paths.extend(_media_below(source, Counter() if skipped is None else skipped))
        elif os.path.lexists(source):
            if is_video(source):
                need_av(source)
            paths.append(source)
        else:
            address = "; addresses are read with --cluster" if "://" in source else ""
            raise InputError(
                f"{source or 'an empty name'} does not exist: expected a picture, a video, a "
                "folder or webcam:0" + address
            )
    return paths


def skipped_files(counts: Counter[str]) -> str:
    """In words: "5 files skipped (3 .txt, 2 .pdf)"; empty where there is none."""
    if not counts:
        return ""
    total = sum(counts.values())
    named = [f"{count} {ending or 'without ending'}" for ending, count in _most(counts)]
    rest = ", ..." if len(counts) > len(named) else ""
    return f"{counted(total, 'file')} skipped ({', '.join(named)}{rest})"


def unusable_files(names: Iterable[str]) -> Counter[str]:
    """How many of a folder's other files have which ending; hidden ones do not count."""
    files = (os.path.basename(name) for name in names)
    return Counter(os.path.splitext(file)[1].lower() for file in files if file[:1] not in ("", "."))


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0] or "~"))[:NAMED_ENDINGS]


def _media_below(folder: str, skipped: Counter[str]) -> list[str]:
    paths: list[str] = []
    others: list[str] = []
    endings = (*ENDINGS, *VIDEO_ENDINGS)
    # A folder that cannot be listed stays in the stream: reading it says why.
    walk = os.walk(folder, onerror=lambda error: paths.append(str(error.filename)))
    for parent, _, names in walk:  # links to folders are not followed: they may lead back here
        for name in names:
            if name.lower().endswith(endings):
                paths.append(os.path.join(parent, name))
            else:
                others.append(name)
    counts = unusable_files(others)
    skipped.update(counts)
    if not paths:
        holds = f"; {skipped_files(counts)}" if counts else ""
        raise InputError(
            f"folder {folder} holds no picture and no video{holds}: expected {', '.join(endings)}"
        )
    return sorted(paths, key=lambda path: path.split(os.sep))


def frames_of(
    images: Iterable[ImageLike], *, span: Span = WHOLE, max_pixels: int = MAX_PIXELS
) -> Generator[Frame]:
    """The frames of images, and of folders and videos by their paths, in order.

    Raises:
        InputError: at its turn, a path that does not exist, a webcam, or what is no image.
    """
    for image in images:
        if not _is_path(image):
            yield frame_of(image, max_pixels=max_pixels)
        elif is_webcam(path := os.fspath(image)):
            raise InputError(f"{path} has no end: read it with predictor.video")
        else:
            yield from open_inputs([path], span=span, max_pixels=max_pixels)


def _is_path(image: ImageLike) -> TypeGuard[str | os.PathLike[str]]:
    """Whether it names a file, and does not hold one.

    Raises:
        InputError: a text that is too long for a path.
    """
    if not isinstance(image, str | os.PathLike):
        return False
    path = os.fspath(image)
    if path[: len(DATA_URL)].lower() == DATA_URL:
        return False
    if len(path) > LONGEST_NAME:
        raise InputError(
            f"a text of {len(path):,} characters: expected a path; base64 needs "
            "data:image/jpeg;base64, before it"
        )
    return True


def readable_frame(picture: "ImageLike | Frame") -> Frame:
    """The frame of a picture.

    Raises:
        InputError: it cannot be read.
    """
    frame = picture if isinstance(picture, Frame) else frame_of(picture)
    if frame.error is not None:
        raise InputError(f"{frame.source or 'picture'} cannot be read: {frame.error}")
    return frame


def frame_of(image: ImageLike, *, max_pixels: int = MAX_PIXELS) -> Frame:
    """One image, wherever it comes from, as a frame.

    Raises:
        InputError: a path that does not exist or is a folder; an array of another type or shape; a
            file opened as text.
    """
    if isinstance(image, bytes | bytearray):
        return decode_image(io.BytesIO(image), "", max_pixels=max_pixels)
    if _is_path(image):
        image = os.fspath(image)
        if os.path.isdir(image) or (os.path.lexists(image) and is_video(image)):
            kind = "folder" if os.path.isdir(image) else "video"
            raise InputError(
                f"{image} is a {kind}: expected a picture (for a {kind}, predictor.rows({kind}))"
            )
        return read_image(*find([image]), max_pixels=max_pixels)
    if isinstance(image, str):
        return _from_data_url(image, max_pixels)
    if isinstance(image, Image.Image):
        source = str(getattr(image, "filename", "") or "")
        try:
            return Frame(source, 0, None, rgb_image(_upright(image)).copy(), None)
        except Exception as error:  # opened lazily: a damaged file shows only now
            return Frame(source, 0, None, None, _reason(error))
    if not isinstance(image, np.ndarray) and hasattr(image, "read"):
        return _from_file(cast(BinaryIO, image), max_pixels)
    return Frame("", 0, None, to_rgb(cast(NDArray[np.uint8], image)), None)


def _from_file(file: BinaryIO, max_pixels: int) -> Frame:
    """An open file from its start on, or from where it stands if it cannot go back."""
    name = getattr(file, "name", "")
    source = name if isinstance(name, str) else ""  # files without a name have a number
    try:
        if file.seekable():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:  # closed, or opened for writing
        return Frame(source, 0, None, None, f"cannot be read: {_one_line(error)}")
    if not isinstance(content, bytes):
        raise InputError(
            f"a file whose read() gives {type(content).__name__}: expected bytes; "
            'open it in the mode "rb"'
        )
    return decode_image(io.BytesIO(content), source, max_pixels=max_pixels)


def _from_data_url(address: str, max_pixels: int) -> Frame:
    """An image inside a text, as in RFC 2397: data:image/png;base64,iVBORw0KGgo..."""
    head, comma, text = address.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        reason = f"{head[:40]!r} is no data URL in base64: expected data:image/jpeg;base64,..."
        return Frame("", 0, None, None, reason)
    try:
        # Line ends and the signs for URLs are common, and so is a padding that was left out.
        plain = "".join(unquote(text).split()).translate(URL_SAFE).rstrip("=")
        content = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError as error:
        return Frame("", 0, None, None, f"a data URL that is no base64: {_one_line(error)}")
    return decode_image(io.BytesIO(content), "", max_pixels=max_pixels)


def read_image(source: str, *, max_pixels: int = MAX_PIXELS) -> Frame:
    """Decode one file, turned upright; never raises for what the file holds."""
    try:
        _check_file(source)
        with open(source, "rb") as file:
            return Frame(source, 0, None, _decode(file, max_pixels), None)
    except Exception as error:  # decoders raise nearly anything on damaged files
        return Frame(source, 0, None, None, _reason(error))


def decode_image(file: BinaryIO, source: str, *, max_pixels: int = MAX_PIXELS) -> Frame:
    """What `read_image` gives, of a file that is open or held in memory; `source` is its name."""
    try:
        if not file.seek(0, os.SEEK_END):
            raise InputError(EMPTY)
        return Frame(source, 0, None, _decode(file, max_pixels), None)
    except Exception as error:
        return Frame(source, 0, None, None, _reason(error))


def _decode(file: BinaryIO, max_pixels: int) -> Image.Image:
    with _silence, _opened(file, max_pixels) as image:
        return rgb_image(_upright(image))


def _opened(file: BinaryIO, max_pixels: int) -> Image.Image:
    """An image that is not decoded yet, and not too large for it."""
    header = read_header(file)
    if header is None or header.format not in (*FORMATS, HEIF):
        raise InputError(f"not a picture in a known format: expected {', '.join(FORMATS)}")
    check_header(header, max_pixels=max_pixels)
    if header.format == HEIF:
        _load_heif()
    image = Image.open(file, formats=(header.format,))
    if image.width * image.height > max_pixels:  # as its decoder understands it
        raise InputError(f"{image.width} x {image.height} pixels: expected at most {max_pixels:,}")
    return image


def _check_file(source: str) -> None:
    """Raises InputError for a file that no decoder should see."""
    status = os.stat(source)
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device would be read for ever
        raise InputError("not a regular file")
    if status.st_size == 0:
        raise InputError(EMPTY)


def _load_heif() -> None:
    """HEIC's decoder comes from a plug-in."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise InputError('a HEIC picture: needs pip install "fervor[heic]"') from error
    register_heif_opener()


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        turned = image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # damaged metadata: the pixels are as good as they are
        return image


def _reason(error: Exception) -> str:
    """One line on why an image could not be read, without its name."""
    if isinstance(error, FervorError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "damaged or truncated picture: its header is none"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels: expected at most {MAX_PIXELS:,}"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, MemoryError):
        return "cannot be decoded in the memory there is"
    return f"damaged or truncated picture: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
