"""Folders of images as videos: times from names or a table, and what is refused."""

import av
import numpy as np
import pytest
from PIL import Image

from fmalign_jax.data import taken
from fmalign_jax.data.recordings import RecordingFiles, images
from fmalign_jax.first_config import reading

SECONDS = "time,a\n10,1\n10.5,2\n11,3\n11.5,4\n"
DATED = "time,a\n" + "".join(
    f"2018-04-19 21:40:52.{i},{i}\n" for i in (0, 1, 2, 3, 4, 5)
)


def _picture(number: int, height: int = 8, width: int = 12) -> np.ndarray:
    """Red says which image it is, and blue the place: swapped axes would show."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = 20 * number + 10
    picture[: height // 2, :, 2] = 200
    return picture


def _write(tmp_path, names, table=SECONDS, **size):
    folder = tmp_path / "run"
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(_picture(number, **size)).save(folder / name)
    (tmp_path / "run.csv").write_text(table, encoding="utf-8")
    return folder


def _numbers(recording) -> list[int]:
    """Which images came, in order."""
    return (recording.streams["video"].values[:, 0, 0, 0] // 20).tolist()


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["9.5.png", "11.25.bmp", "10.tif"], [0, 2, 1]),
        (["0009.500.png", "0011.25.png", "00010.png"], [0, 2, 1]),
    ],
)
def test_names_in_seconds_are_on_the_clock_of_the_table(tmp_path, names, order):
    folder = _write(tmp_path, names)
    recording = RecordingFiles(tmp_path, frame_size=(8, 12)).read("run")
    video, current = recording.streams["video"], recording.streams["current"]
    assert _numbers(recording) == order
    np.testing.assert_allclose(video.time_s, [0, 0.5, 1.75])
    np.testing.assert_allclose(current.time_s, [0.5, 1, 1.5, 2])
    np.testing.assert_array_equal(video.values[0], _picture(order[0]))
    assert taken.lines([recording.taken])[-1] == (
        f"{folder}: images, times from names of files (seconds)"
    )
    # The folder itself is a recording too, and so is a pattern.
    for path in (folder, tmp_path / "r*"):
        assert RecordingFiles(path).names() == ["run"]


@pytest.mark.parametrize(
    "name",
    [
        "20180419_214052_{}00.png",
        "cam1_20180419-214052-{}00.png",
        "2018-04-19 21-40-52.{}00.png",
        "2018-04-19T21:40:52.{}00000.png",
        "frame 20180419214052.{}00 raw.png",
    ],
)
def test_names_that_are_dates(tmp_path, name):
    _write(tmp_path, [name.format(i) for i in (4, 1, 3)], DATED)
    recording = RecordingFiles(tmp_path, frame_size=(8, 12)).read("run")
    assert _numbers(recording) == [1, 2, 0]
    video, current = recording.streams["video"], recording.streams["current"]
    # The table begins 0.1 s before the first image.
    np.testing.assert_allclose(video.time_s, [0.1, 0.3, 0.4], atol=1e-6)
    np.testing.assert_allclose(current.time_s, np.arange(6) / 10, atol=1e-6)


def test_an_option_gives_the_start_as_of_a_video(tmp_path):
    _write(tmp_path, [f"20180419_2140{s}.png" for s in (52, 53, 54)])
    files = RecordingFiles(tmp_path, frame_size=8, video_start=10.0)
    streams = files.read("run").streams
    np.testing.assert_allclose(streams["video"].time_s, [0, 1, 2])
    np.testing.assert_allclose(streams["current"].time_s, [0, 0.5, 1, 1.5])
    with pytest.raises(ValueError, match="must both be seconds or both be dates"):
        RecordingFiles(tmp_path, frame_size=8).read("run")


@pytest.mark.parametrize(
    ("options", "name", "step_s"),
    [
        ({"frame_rate_hz": 4.0}, "shot_b2_{:04d}.png", 0.25),
        ({"frame_time": r"t(?P<milliseconds>\d+)"}, "n7_t{}00.png", 0.1),
        ({"frame_time": r"(?P<seconds>\d+)s(?P<milliseconds>\d+)"}, "{}s0.png", 1.0),
        (
            {"frame_time": r"-(?P<frame>\d+)", "frame_rate_hz": 2.0},
            "b9-{}.png",
            0.5,
        ),
    ],
)
def test_a_pattern_says_where_the_time_stands(tmp_path, options, name, step_s):
    table = f"t,a\n0,1\n{2 * step_s},2\n{4 * step_s},2\n"
    _write(tmp_path, [name.format(i) for i in range(5)], table)
    files = RecordingFiles(tmp_path, frame_size=8, **options)
    video = files.read("run").streams["video"]
    np.testing.assert_allclose(video.time_s, step_s * np.arange(5))


def test_numbered_frames_begin_as_a_video_does(tmp_path):
    _write(tmp_path, [f"{i:05d}.jpg" for i in range(1, 6)], "t,a\n0,1\n1,2\n")
    files = RecordingFiles(tmp_path, frame_size=8, frame_rate_hz=4.0)
    streams = files.read("run").streams
    np.testing.assert_allclose(streams["video"].time_s, np.arange(5) / 4)
    np.testing.assert_allclose(streams["current"].time_s, [0, 1])


def test_times_from_a_table(tmp_path):
    folder = _write(tmp_path, ["b.png", "a.png", "c.png"])
    (tmp_path / "run.frames.csv").write_text("time,file\n10,c.png\n9,b.png\n11,a.png\n")
    files = RecordingFiles(tmp_path, frame_size=(8, 12), max_frame_rate_hz=0.5)
    assert files.files("run") == (
        folder,
        tmp_path / "run.csv",
        tmp_path / "run.frames.csv",
    )
    recording = files.read("run")
    assert _numbers(recording) == [0, 1]  # by 9 and 11 s: one in two seconds
    np.testing.assert_allclose(recording.streams["video"].time_s, [0, 2])


def test_images_are_scaled_as_frames_of_a_video(tmp_path):
    rng = np.random.default_rng(0)
    folder = _write(tmp_path, ["10.png"])
    noise = rng.integers(0, 256, (33, 47, 3), np.uint8)
    Image.fromarray(noise).save(folder / "11.png")
    grey = rng.integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(grey).save(folder / "12.png")
    values = RecordingFiles(tmp_path, frame_size=(16, 20)).read("run").streams["video"]
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24")
    meant = frame.to_ndarray("rgb24", width=20, height=16, interpolation="AREA")
    np.testing.assert_array_equal(values.values[1], meant)
    assert np.ptp(values.values[2].astype(int), axis=-1).max() == 0


def test_labels_and_the_fingerprint(tmp_path):
    folder = _write(tmp_path, ["10.png", "11.png"])
    (tmp_path / "run.labels.csv").write_text("time,label\n10.5,hot\n")
    files = RecordingFiles(tmp_path, frame_size=8)
    assert files.read("run").streams["video"].label.tolist() == [-1, 0]
    before = files.fingerprint()
    Image.fromarray(_picture(3)).save(folder / "11.5.png")
    assert RecordingFiles(tmp_path, frame_size=8).fingerprint() != before


def _spoil(folder, content):
    (folder / "11.png").write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: Image.fromarray(_picture(0)).save(f / "new.png"),
            r"run/new.png: the name of an image must hold its time",
        ),
        (
            lambda f: Image.fromarray(_picture(0)).save(f / "20181319_214052.png"),
            r"run/20181319_214052.png: the name of an image must hold its time",
        ),
        (
            lambda f: Image.fromarray(_picture(0)).save(f / "20180419_214052_0001.png"),
            r"run/20180419_214052_0001.png: the name of an image must hold its time",
        ),
        (
            lambda f: Image.fromarray(_picture(0)).save(f / "20180419_214052.png"),
            r"run/20180419_214052.png: the names of all images must tell times in one",
        ),
        (
            lambda f: Image.fromarray(_picture(0)).save(f / "11.0.png"),
            r"run/11.png: every image needs a time of its own; got that of 11.0.png",
        ),
        (lambda f: _spoil(f, b""), r"run/11.png: must be a whole image"),
        (
            lambda f: _spoil(f, (f / "10.png").read_bytes()[:-30]),
            r"run/11.png: must be a whole image",
        ),
        (
            lambda f: Image.fromarray(np.zeros((4, 4), np.uint16)).save(f / "11.png"),
            r"run/11.png: an image must be one picture of 8 bits a channel",
        ),
        (
            lambda f: Image.fromarray(_picture(0)).save(
                f / "12.tif", save_all=True, append_images=[Image.new("RGB", (4, 4))]
            ),
            r"run/12.tif: an image must be one picture .*; got 2 pages",
        ),
    ],
)
def test_faults_name_the_image(tmp_path, change, message):
    folder = _write(tmp_path, ["10.png", "11.png"])
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        RecordingFiles(tmp_path, frame_size=8).read("run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,time\n10.png,1\n11.png,1\n", "every image needs a time of its own"),
        ("file,time\n10.png,1\n", "11.png: every image needs a time; got none in"),
        ("file,time\n10.png,1\n10.png,2\n", "got '10.png' again in line 3"),
        ("file,time\n10.png,1\nx.png,2\n", "got 'x.png' but no such file in run"),
        ("name,time\n10.png,1\n11.png,2\n", "must have the columns file and time"),
        ("file,time\n10.png,1\n11.png,x\n", "times must be seconds"),
    ],
)
def test_faults_of_the_table_of_times(tmp_path, text, message):
    _write(tmp_path, ["10.png", "11.png"])
    (tmp_path / "run.frames.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        RecordingFiles(tmp_path, frame_size=8).read("run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_rate_hz": 0.0}, "frame_rate_hz must be positive"),
        ({"frame_time": "(?P<seconds>"}, "must be a regular expression"),
        ({"frame_time": r"(\d+)"}, "must name groups for a time"),
        ({"frame_time": r"(?P<frame>\d+)"}, "must name groups for a time"),
    ],
)
def test_options_that_tell_no_time(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        RecordingFiles(tmp_path, **options)


def test_other_folders_are_no_recordings(tmp_path):
    folder = _write(tmp_path, ["10.png", "11.png"])
    (tmp_path / "plots").mkdir()
    Image.fromarray(_picture(0)).save(tmp_path / "plots" / "1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.csv").write_text(SECONDS)
    assert RecordingFiles(tmp_path).names() == ["run"]
    (tmp_path / "run.csv").unlink()
    for path in (tmp_path, folder):
        with pytest.raises(ValueError, match="or a folder of images with a table"):
            RecordingFiles(path).names()


def test_a_name_with_points_is_whole(tmp_path):
    folder = tmp_path / "2018.04.19"
    _write(tmp_path, ["10.png", "11.png"]).rename(folder)
    (tmp_path / "run.csv").rename(tmp_path / "2018.04.19.csv")
    files = RecordingFiles(tmp_path, frame_size=8)
    assert files.names() == [files.read("2018.04.19").name] == ["2018.04.19"]
    assert images.is_folder(folder)
    assert not images.is_folder(tmp_path)


def test_a_first_config_takes_images_and_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    _write(tmp_path, [f"{i}.png" for i in range(5)], "time,a\n0,1\n2,2\n4,3\n")
    columns = {"time": [0.0, 2, 4], "a": [1.0, 2, 3]}
    folder = tmp_path / "packed"
    (tmp_path / "run").rename(folder)
    writer.write_table(arrow.table(columns), tmp_path / "packed.parquet")
    found = reading.look(tmp_path, progress=False)
    assert [seen.file for seen in found.seen] == ["packed"]
    assert found.seen[0].kinds["current"].channel_names == ("a",)
    assert [item.what for item in found.left_out] == ["run.csv"]
    (folder / "new.png").write_bytes(b"")
    found = reading.look(tmp_path, progress=False)
    assert [(item.what, item.is_recording) for item in found.left_out] == [
        ("packed", True),
        ("run.csv", False),
    ]
    assert found.left_out[0].why.startswith("packed/new.png: the name of an")
