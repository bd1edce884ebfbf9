"""Pictures and folders -> one stream of frames, in order; an unreadable one says why in its frame.

Only the decoders in `FORMATS` ever run, and a picture's size is read from its header before a pixel
is decoded.
"""

import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fervor.errors import InputError
from fervor.preprocess import to_rgb


__all__ = ["ENDINGS", "Frame", "Picture", "find", "frame_of", "open_inputs", "read", "read_picture"]

Picture = str | Path | Image.Image | NDArray[np.uint8]
"""A path, a PIL image of any mode, or an array uint8 RGB [h w 3] or grey [h w]."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What counts as a picture in a folder, in any case."""

MAX_PIXELS = 128_000_000
"""Above the largest common camera (108 megapixels); half a gigabyte as RGB while it is decoded."""

ORIENTATION = 0x0112
UPRIGHT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture, or one frame of a video.

    Attributes:
        source: the path as it was given or found; empty for an array.
        frame: number within the source, from 0.
        time_s: seconds from the start of a video; None for a picture.
        image: RGB, uint8, [h w 3], turned upright; None where it could not be read.
        error: the reason, one line; None where it could.
    """

    source: str
    frame: int
    time_s: float | None
    image: NDArray[np.uint8] | None
    error: str | None


def open_inputs(inputs: Sequence[str | Path], *, max_pixels: int = MAX_PIXELS) -> Iterator[Frame]:
    """The frames of all inputs (pictures and folders) in order.

    Raises:
        InputError: at once, not at the first frame: an input does not exist, or a folder holds no
            picture.
    """
    return read(find(inputs), max_pixels=max_pixels)


def read(sources: Iterable[str], *, max_pixels: int = MAX_PIXELS) -> Iterator[Frame]:
    """The frames of files, in order; one picture in memory at a time."""
    for source in sources:
        yield read_picture(source, max_pixels=max_pixels)


def find(inputs: Sequence[str | Path]) -> list[str]:
    """The files that the inputs stand for: folders recursively and sorted, by their endings.

    Raises:
        InputError: an input does not exist, or a folder holds no picture.
    """
    found: list[str] = []
    for given in inputs:
        source = os.fspath(given)
        if os.path.isdir(source):
            found.extend(_pictures_below(source))
        elif os.path.lexists(source):
            found.append(source)
        else:
            raise InputError(f"{source} does not exist: expected a picture or a folder of pictures")
    return found


def _pictures_below(folder: str) -> list[str]:
    found: list[str] = []
    # A folder that cannot be listed stays in the stream: reading it says why.
    walk = os.walk(folder, onerror=lambda error: found.append(str(error.filename)))
    for parent, _, names in walk:  # links to folders are not followed: they may lead back here
        found.extend(os.path.join(parent, name) for name in names if name.lower().endswith(ENDINGS))
    if not found:
        raise InputError(f"folder {folder} holds no picture: expected {', '.join(ENDINGS)}")
    return sorted(found, key=lambda path: path.split(os.sep))


def frame_of(picture: Picture, *, max_pixels: int = MAX_PIXELS) -> Frame:
    """One picture, wherever it comes from, as a frame.

    Raises:
        InputError: a path that does not exist or is a folder; an array of another type or shape.
    """
    if isinstance(picture, str | Path):
        if os.path.isdir(picture):
            raise InputError(
                f"{picture} is a folder: expected a picture (for a folder, "
                "predictor.stream(fervor.media.open_inputs([folder])))"
            )
        return read_picture(*find([picture]), max_pixels=max_pixels)
    if isinstance(picture, Image.Image):
        source = str(getattr(picture, "filename", "") or "")
        try:
            return Frame(source, 0, None, to_rgb(_upright(picture)), None)
        except Exception as error:  # opened lazily: a damaged file shows only now
            return Frame(source, 0, None, None, _reason(error))
    return Frame("", 0, None, to_rgb(picture), None)


def read_picture(source: str, *, max_pixels: int = MAX_PIXELS) -> Frame:
    """Decode one file, turned upright; never raises for what the file holds."""
    try:
        return Frame(source, 0, None, _decode(source, max_pixels), None)
    except Exception as error:  # decoders raise nearly anything on damaged files
        return Frame(source, 0, None, None, _reason(error))


def _decode(source: str, max_pixels: int) -> NDArray[np.uint8]:
    status = os.stat(source)
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device would be read for ever
        raise InputError("not a regular file")
    if status.st_size == 0:
        raise InputError("the file is empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that are checked here
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise InputError(
                    f"{image.width} x {image.height} pixels: expected at most {max_pixels:,}"
                )
            return to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        turned = image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # damaged metadata: the pixels are as good as they are
        return image


def _reason(error: Exception) -> str:
    """One line on why a picture could not be read, without its name."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture in a known format: expected {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels: expected at most {MAX_PIXELS:,}"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, MemoryError):
        return "cannot be decoded in the memory there is"
    return f"damaged or truncated picture: {' '.join(str(error).split()) or type(error).__name__}"
