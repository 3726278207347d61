"""Video files (mp4, avi, ...) decoded by PyAV, as a player would show them."""

from __future__ import annotations

import dataclasses
import logging
import math
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from jaxtyping import Float, UInt8

from fmalign_jax.data import clocks

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")

_MOST_CORRUPT = 0.01
"""Share of frames that the decoder may have had to make up."""


def read_video(
    path: pathlib.Path,
    *,
    frame_size: tuple[int, int],
    max_frame_rate_hz: float | None,
) -> tuple[UInt8[np.ndarray, "N H W 3"], Float[np.ndarray, "N"]]:
    """Decodes a video to RGB frames and the seconds since its first frame.

    A rotation that the file asks of its player is applied.

    Args:
      path: the file.
      frame_size: height and width in pixels to scale to; the picture is stretched.
      max_frame_rate_hz: keep at most so many frames a second, None keeps all.

    Returns:
      frames uint8 [N, H, W, 3] and their presentation times, float64 [N].

    Raises:
      ValueError: the file is damaged, cut short, holds no video, or asks for a
        mirrored picture or an angle that is no right one.
    """
    height, width = frame_size
    pixels, times, last = bytearray(), [], -1.0
    try:
        for index, (time_s, frame) in enumerate(_frames(path)):
            here = (
                float(index)
                if max_frame_rate_hz is None
                else float(clocks.slot(time_s, rate_hz=max_frame_rate_hz))
            )
            if here == last:
                continue
            last = here
            times.append(time_s)
            # Growing one buffer holds the frames once; a list to stack, twice.
            pixels += _picture(frame, height, width, path).tobytes()
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path}: must be a whole video file; got one that cannot be decoded "
            f"({error.strerror}); copy it again or convert it to mp4"
        ) from None
    frames = np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)
    return frames, np.array(times)


def _picture(
    frame: av.VideoFrame, height: int, width: int, path: pathlib.Path
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns a frame scaled, and turned as its display matrix says."""
    turns, rest = divmod(frame.rotation, 90)
    if rest or _is_mirrored(frame):
        raise ValueError(
            f"{path}: a player must turn the picture by right angles alone; got "
            f"{'a mirrored picture' if not rest else f'{frame.rotation} degrees'}; "
            "encode it anew, so that the frames are as they are to be seen"
        )
    if turns % 2:
        height, width = width, height
    picture = frame.to_ndarray(
        format="rgb24", width=width, height=height, interpolation="AREA"
    )
    return np.rot90(picture, turns)  # counterclockwise, as the angle


def _is_mirrored(frame: av.VideoFrame) -> bool:
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    return bool(a * d - b * c < 0)


@dataclasses.dataclass(frozen=True)
class _Packets:
    """What a file holds of one stream, without decoding it.

    Attributes:
      count: packets, with those that only repeat the frame before.
      shown: of them, those that give a frame to show.
      order_s: decoding times of the latter, rising.
      length_s: from the first frame, or 0 where that is hidden, to the end of the last.
    """

    count: int
    shown: int
    order_s: list[float]
    length_s: float


def _frames(path: pathlib.Path) -> Iterator[tuple[float, av.VideoFrame]]:
    """Every frame with its time since the first."""
    number = _video_stream(path)
    packets = _packets(path, number)
    with av.open(str(path)) as container:
        stream = container.streams[number]
        assert isinstance(stream, av.VideoStream)
        _check_whole(path, container, stream, packets)
        stream.thread_type = "AUTO"
        rate_hz = float(stream.average_rate or 25)
        # AVI keeps the order of decoding alone: frames come out in the order of
        # showing, and the times of all are the same set.
        slots_s = packets.order_s if container.format.name == "avi" else []
        first, count, corrupt = None, 0, 0
        for frame in container.decode(stream):
            if count < len(slots_s):
                time_s = slots_s[count]
            else:
                time_s = count / rate_hz if frame.time is None else float(frame.time)
            first = time_s if first is None else first
            yield time_s - first, frame
            count += 1
            corrupt += frame.is_corrupt
        if count < 0.98 * packets.shown - 2:
            raise ValueError(
                f"{path}: must give the {packets.shown} frames it holds; got {count}: "
                "some cannot be decoded; copy it again"
            )
        _check_corrupt(path, corrupt, count)


def _video_stream(path: pathlib.Path) -> int:
    """Returns the number of the stream that is the video.

    Pictures that are attached, such as a cover, are none; of several the first counts.
    """
    with av.open(str(path)) as container:
        pictures = av.stream.Disposition.attached_pic
        found = [
            stream.index
            for stream in container.streams.video
            if not stream.disposition & pictures
        ]
    if len(found) > 1:  # a cover may not be marked as one: it is a single packet
        found = [n for n in found if _packets(path, n).count > 1] or found
    if not found:
        raise ValueError(
            f"{path}: must hold a video; got none in it; give another file"
        )
    if len(found) > 1:
        logging.getLogger(__name__).warning(
            "%s: holds %d videos; the first is read", path, len(found)
        )
    return found[0]


def _packets(
    path: pathlib.Path, number: int, options: dict[str, str] | None = None
) -> _Packets:
    count, begin_s, end_s = 0, math.inf, 0.0
    order_s: list[float] = []
    with av.open(str(path), options=options or {}) as container:
        for packet in container.demux(container.streams[number]):
            if packet.dts is None and packet.pts is None and not packet.size:
                continue  # the end of the file
            count += 1
            moment = packet.pts if packet.pts is not None else packet.dts
            base = float(packet.time_base)
            if moment is not None:
                begin_s = min(begin_s, moment * base)
                end_s = max(end_s, (moment + (packet.duration or 0)) * base)
            if packet.size and not packet.is_discard:
                at = packet.dts if packet.dts is not None else packet.pts
                order_s.append((at if at is not None else len(order_s)) * base)
    length_s = end_s - max(0.0, begin_s) if count else 0.0
    return _Packets(count, len(order_s), sorted(order_s), length_s)


def _check_whole(
    path: pathlib.Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: _Packets,
) -> None:
    """Refuses a file that holds less than its header promises."""
    if packets.count < 0.98 * stream.frames - 2:
        # What an edit list hides is there all the same.
        everything = _packets(path, stream.index, {"ignore_editlist": "1"}).count
        if everything < 0.98 * stream.frames - 2:
            raise ValueError(
                f"{path}: must hold the {stream.frames} frames its header promises; "
                f"got {everything}; the file was cut short: copy it again"
            )
    promised_s = _promised_s(container, stream)
    if packets.length_s < 0.95 * promised_s - 0.5:
        raise ValueError(
            f"{path}: must last the {promised_s:.6g} s its header promises; got "
            f"{packets.length_s:.6g} s; the file was cut short: copy it again"
        )


def _promised_s(
    container: av.container.InputContainer, stream: av.VideoStream
) -> float:
    """How long a video shall be, by the header of its file; 0 where it is not said."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # The length of the longest stream, which says nothing when there are several.
    if len(container.streams) > 1 or container.duration is None:
        return 0.0
    return container.duration / av.time_base


def _check_corrupt(path: pathlib.Path, corrupt: int, count: int) -> None:
    """Says how many frames are made up, and refuses too many."""
    if not corrupt:
        return
    if corrupt > _MOST_CORRUPT * count:
        raise ValueError(
            f"{path}: at most {_MOST_CORRUPT:.0%} of the frames may be damaged; got "
            f"{corrupt} of {count}; copy it again"
        )
    logging.getLogger(__name__).warning(
        "%s: %d of %d frames are damaged, and read as the decoder made them up",
        path,
        corrupt,
        count,
    )
