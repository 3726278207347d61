"""A folder of images as a video: the time of each from its name, or from a table.

<stem>/                     the images, .png, .jpg, .bmp or .tif, in any order
<stem>.frames.csv           optional; file, time: of every image
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping

import av
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from fmalign_jax.data import clocks, files, tables

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

DATE = (
    r"(?<!\d)(?P<year>(?:19|20)\d\d)[-_.]?(?P<month>\d\d)[-_.]?(?P<day>\d\d)[-_T ]*"
    r"(?P<hour>\d\d)[-_.:]?(?P<minute>\d\d)[-_.:]?(?P<second>\d\d)"
    r"(?:[-_.,](?P<fraction>\d{3}|\d{6}))?(?![-_.,]?\d)"
)
"""A date and time in a name, to the second, or with three or six digits more."""

SECONDS = r"(?P<seconds>\d+(?:\.\d+)?)"
NUMBER = r"(?:.*\D)?(?P<frame>\d+)\D*"

_UNITS = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6}
_DATE_PARTS = ("year", "month", "day", "hour", "minute", "second")
_DAMAGED = (  # what Pillow raises for damaged files
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    *(IndexError, KeyError, TypeError, OverflowError),
)
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


@dataclasses.dataclass(frozen=True)
class Times:
    """How the names of images tell their times.

    Attributes:
      pattern: a regular expression for the name without its suffix, with named groups;
        None: a date, else a number of seconds.
      rate_hz: frames a second, where names number them.
    """

    pattern: str | None = None
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        """Refuses a pattern that could tell no time."""
        if self.rate_hz is not None and not self.rate_hz > 0:
            raise ValueError(
                f"frame_rate_hz must be positive; got {self.rate_hz}; leave it out "
                "where names hold times"
            )
        try:
            groups = set(re.compile(self.pattern or DATE).groupindex)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"frame_time must be a regular expression; got {self.pattern!r} "
                f"({error}); see docs/recordings.md"
            ) from None
        numbered = self.rate_hz is not None and "frame" in groups
        if not (set(_DATE_PARTS) <= groups or groups & set(_UNITS) or numbered):
            raise ValueError(
                "frame_time must name groups for a time: seconds, milliseconds or "
                f"microseconds, or {', '.join(_DATE_PARTS)}, or frame beside the "
                f"option frame_rate_hz; got {sorted(groups)}; write such as "
                "(?P<seconds>...)"
            )

    def of(self, path: pathlib.Path) -> tuple[float, bool, bool]:
        """Returns the time in a name, whether it is a date, and a number of a frame.

        Raises:
          ValueError: there is none.
        """
        name = path.stem
        if self.pattern is not None:
            found = re.search(self.pattern, name)
        elif self.rate_hz is not None:
            found = re.fullmatch(NUMBER, name)
        else:
            dates = list(re.finditer(DATE, name))
            found = dates[0] if len(dates) == 1 else re.fullmatch(SECONDS, name)
        parts = {} if found is None else _given(found.groupdict())
        time_s = self._seconds(parts)
        if time_s is None or not abs(time_s) <= clocks.LATEST_S:
            raise ValueError(
                f"{path}: the name of an image must hold its time, a number of seconds "
                f"or a date and time; got {path.name!r}; write the times into "
                f"{path.parent.name}.frames.csv (file, time), which every command "
                "reads, or in a config say where the time stands by the option "
                "frame_time, or how many are counted a second by frame_rate_hz"
            )
        return time_s, "year" in parts, "frame" in parts

    def _seconds(self, parts: Mapping[str, str]) -> float | None:
        try:
            if "year" in parts:
                year, month, day, *clock = (int(parts[key]) for key in _DATE_PARTS)
                date = datetime.datetime(year, month, day, *clock)  # type: ignore[arg-type]
                date = date.replace(tzinfo=datetime.UTC)
                return date.timestamp() + float(f"0.{parts.get('fraction', '0')}")
            if "frame" in parts and self.rate_hz is not None:
                return int(parts["frame"]) / self.rate_hz
            units = [key for key in _UNITS if key in parts]
            total = sum(clocks.number(parts[key]) * _UNITS[key] for key in units)
        except (ValueError, KeyError, OverflowError):
            return None
        return total if units else None


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of a folder in the order of their times.

    Attributes:
      paths: of the images.
      time_s: of each, float64 [N], rising: seconds, or seconds since 1970 of dates.
      dated: whether times are dates.
      numbered: whether times are those of numbered frames, from the first on.
      said: where the times stand, in words.
    """

    paths: tuple[pathlib.Path, ...]
    time_s: Float[np.ndarray, "N"]
    dated: bool
    numbered: bool
    said: str

    @property
    def first(self) -> float | str | None:
        """The first time as the option video_start would give it; None of numbers."""
        if self.numbered:
            return None
        if not self.dated:
            return float(self.time_s[0])
        moment = datetime.datetime.fromtimestamp(self.time_s[0], datetime.UTC)
        return moment.replace(tzinfo=None).isoformat(" ")


def is_folder(path: pathlib.Path) -> bool:
    """Whether a path is a folder with an image in it."""
    return path.is_dir() and next(_images(path), None) is not None


def times_file(folder: pathlib.Path) -> pathlib.Path:
    """Returns where the times of the images lie, if they are in a table."""
    return files.beside(folder, ".frames.csv")


def images_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images of a folder, by name."""
    return sorted(_images(folder))


def listed(folder: pathlib.Path, times: Times) -> Listing:
    """Finds the images of a folder and their times.

    Args:
      folder: of the images.
      times: how names tell times, where no table does.

    Raises:
      ValueError: an image has no time, or two have one.
    """
    table = times_file(folder)
    if table.is_file():
        found = _by_table(folder, table)
    else:
        found = _by_name(images_of(folder), times)
    order = np.argsort(found.time_s, kind="stable")
    paths, time_s = [found.paths[i] for i in order], found.time_s[order]
    alike = np.flatnonzero(np.diff(time_s) <= 0)
    if alike.size:
        one, other = paths[alike[0]], paths[alike[0] + 1]
        raise ValueError(
            f"{other}: every image needs a time of its own; got that of {one.name}; "
            f"write the times into {folder.name}.frames.csv (file, time)"
        )
    return dataclasses.replace(found, paths=tuple(paths), time_s=time_s)


def read_images(
    listing: Listing,
    *,
    frame_size: tuple[int, int],
    max_frame_rate_hz: float | None,
) -> tuple[UInt8[np.ndarray, "N H W 3"], Float[np.ndarray, "N"]]:
    """Reads images as the frames of a video.

    Args:
      listing: the images.
      frame_size: height and width in pixels to scale to, as video files are scaled;
        images may differ in size.
      max_frame_rate_hz: keep at most so many frames a second, None keeps all.

    Returns:
      frames uint8 [N, H, W, 3] and the seconds since the first, float64 [N].

    Raises:
      ValueError: an image is damaged, or has more than 8 bits a channel.
    """
    time_s = listing.time_s - listing.time_s[0]
    kept = np.flatnonzero(clocks.thin(time_s, max_rate_hz=max_frame_rate_hz))
    frames = np.empty((len(kept), *frame_size, 3), np.uint8)
    for place, number in enumerate(kept.tolist()):
        frames[place] = _scaled(_pixels(listing.paths[number]), *frame_size)
    return frames, time_s[kept]


def _images(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = pathlib.Path(entry.path)
            if path.suffix.lower() in SUFFIXES and entry.name[0] != ".":
                yield path


def _given(parts: Mapping[str, str | None]) -> dict[str, str]:
    return {key: text for key, text in parts.items() if text is not None}


def _by_name(paths: list[pathlib.Path], times: Times) -> Listing:
    found = [times.of(path) for path in paths]
    forms = [form for _, *form in found]
    odd = [path for path, form in zip(paths, forms, strict=True) if form != forms[0]]
    if odd:
        raise ValueError(
            f"{odd[0]}: the names of all images must tell times in one form; got one "
            f"other than that of {paths[0].name}; rename it, or move it elsewhere"
        )
    dated, numbered = forms[0]
    form = "dates" if dated else "numbers of frames" if numbered else "seconds"
    time_s = np.array([time for time, *_ in found])
    return Listing(tuple(paths), time_s, dated, numbered, f"names of files ({form})")


def _by_table(folder: pathlib.Path, path: pathlib.Path) -> Listing:
    table = tables.read_table(path)
    names = [name.lower() for name in table.columns]
    called = [i for i, name in enumerate(names) if name in clocks.TIMES]
    if "file" not in names or not (called or len(names) == 2):
        raise ValueError(
            f"{path}: must have the columns file and time; got {list(table.columns)}; "
            "name them so"
        )
    time = called[0] if called else 1 - names.index("file")
    time_s, written = table.seconds(time), table.texts(names.index("file"))
    there = {image.name: image for image in images_of(folder)}
    seen: set[str] = set()
    for row, name in enumerate(written):
        if name not in there or name in seen:
            came = "again" if name in seen else f"but no such file in {folder.name}"
            raise ValueError(
                f"{path}: every row must name an image of its own; got {name[:80]!r} "
                f"{came} in {table.place(row)}; correct it, or copy that image"
            )
        seen.add(name)
    if untimed := sorted(set(there) - set(written)):
        raise ValueError(
            f"{folder / untimed[0]}: every image needs a time; got none in "
            f"{path.name}; add it there, or move the image elsewhere"
        )
    dated = table.is_dated(time)
    said = f"{path.name} ({'dates' if dated else 'seconds'})"
    return Listing(tuple(there[name] for name in written), time_s, dated, False, said)


def _pixels(path: pathlib.Path) -> UInt8[np.ndarray, "H W 3"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd tags
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF")) as image:
                mode, pages = image.mode, getattr(image, "n_frames", 1)
                if mode in _EIGHT_BITS and pages == 1:
                    # Turned as a viewer would show it.
                    turned = ImageOps.exif_transpose(image)
                    return np.asarray(turned.convert("RGB"))
    except _DAMAGED as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: must be a whole image; got one that cannot be read ({said}); "
            "copy it again, or move it elsewhere"
        ) from None
    came = f"{pages} pages" if pages > 1 else f"mode {mode}"
    raise ValueError(
        f"{path}: an image must be one picture of 8 bits a channel; got {came}; "
        "convert it"
    )


def _scaled(
    pixels: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Scales as frames of video files are scaled."""
    if pixels.shape[:2] == (height, width):
        return pixels
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return frame.to_ndarray(
        format="rgb24", width=width, height=height, interpolation="AREA"
    )
