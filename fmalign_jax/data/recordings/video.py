"""Video files (mp4, avi, ...) decoded by PyAV."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import av
import numpy as np
from jaxtyping import Float, UInt8

from fmalign_jax.data import clocks

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")


def read_video(
    path: pathlib.Path,
    *,
    frame_size: tuple[int, int],
    max_frame_rate_hz: float | None,
) -> tuple[UInt8[np.ndarray, "N H W 3"], Float[np.ndarray, "N"]]:
    """Decodes a video to RGB frames and the seconds since its first frame.

    Args:
      path: the file.
      frame_size: height and width in pixels to scale to; the picture is stretched.
      max_frame_rate_hz: keep at most so many frames a second, None keeps all.

    Returns:
      frames uint8 [N, H, W, 3] and their presentation times, float64 [N].

    Raises:
      ValueError: the file is damaged, cut short, or holds no video.
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
            pixels += frame.to_ndarray(
                format="rgb24", width=width, height=height, interpolation="AREA"
            ).tobytes()
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path}: must be a whole video file; got one that cannot be decoded "
            f"({error.strerror}); copy it again or convert it to mp4"
        ) from None
    frames = np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)
    return frames, np.array(times)


def _frames(path: pathlib.Path) -> Iterator[tuple[float, av.VideoFrame]]:
    """Every frame with its time since the first."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(
                f"{path}: must hold a video; got none in it; give another file"
            )
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate_hz = float(stream.average_rate or 25)
        first, time_s, count = None, 0.0, 0
        for frame in container.decode(stream):
            time_s = count / rate_hz if frame.time is None else float(frame.time)
            first = time_s if first is None else first
            yield time_s - first, frame
            count += 1
        # Some formats lose their end without an error: the header knows better.
        if count < 0.98 * stream.frames - 2:
            raise ValueError(
                f"{path}: must hold the {stream.frames} frames its header promises; "
                f"got {count}; the file was cut short: copy it again"
            )
        promised_s = _promised_s(container, stream)
        if time_s + 1 / rate_hz < 0.95 * promised_s - 0.5:
            raise ValueError(
                f"{path}: must last the {promised_s:.6g} s its header promises; got "
                f"{time_s:.6g} s; the file was cut short: copy it again"
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
