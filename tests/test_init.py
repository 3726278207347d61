"""From a folder of recordings to a table, and to a first config that trains."""

import os
import pathlib
import subprocess
import sys

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_fmf

from fmalign_jax import init
from fmalign_jax.config import load_file, rename_modality, shipped_config
from fmalign_jax.config.check import check_config
from fmalign_jax.config.saved import from_json, to_json
from fmalign_jax.data import dataset, fmf
from fmalign_jax.data.recordings import RecordingFiles
from fmalign_jax.first_config import choices, page, reading, told
from fmalign_jax.first_config.frames import fit_frames
from fmalign_jax.models.decoders import FrameDecoder
from fmalign_jax.models.encoders import ConvSpecific, FrameStem
from fmalign_jax.train import train

ROOT = pathlib.Path(__file__).parents[1]


def _npz(path, seconds, *, frame_hz=5, sensor_hz=20, side=(16, 16), channels=3, **more):
    """Writes a recording of noise on regular clocks."""
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(len(path.stem))
    frames, rows = int(seconds * frame_hz), int(seconds * sensor_hz)
    arrays = {
        "frames": rng.integers(0, 256, (frames, *side, 3), dtype=np.uint8),
        "frame_t": np.arange(frames) / frame_hz,
        "sensor": rng.normal(size=(rows, channels)),
        "sensor_t": np.arange(rows) / sensor_hz,
    }
    np.savez(path, **{k: v for k, v in (arrays | more).items() if v is not None})


def _video(path, seconds, *, rate_hz=10, text, labels=None):
    """Writes a video with a CSV beside it, and labels."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate_hz)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(int(seconds * rate_hz)):
            picture = np.full((64, 96, 3), 40 + number % 200, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.with_suffix(".csv").write_text(text)
    if labels:
        path.with_suffix(".labels.csv").write_text(labels)


def _rows(table, what):
    """Returns what a table says of one thing, by of what, in one line each."""
    told_of, key = {}, None
    for first, second, found in table[1:]:
        if first:
            key = second if first == what else None
        if key is not None:
            told_of[key] = f"{told_of[key]} {found}" if key in told_of else found
    return told_of


def _look(folder):
    return reading.look(folder, progress=False)


def _written(folder, out):
    """Returns the config that is written for a folder, and its text."""
    path = init.init(folder, out)
    return load_file(path).get_config(), path.read_text()


def _counted(config, prepared):
    """Returns how many windows the recordings give when they are really prepared."""
    config.data.prepared_dir = str(prepared)
    windows = dataset.make_windows(dataset.open_dataset(config), config)
    return {name: len(index) for name, index in windows.items()}


@pytest.fixture(scope="module")
def mydata(tmp_path_factory):
    """Two good recordings, one with a late sensor and a gap, and what is none."""
    folder = tmp_path_factory.mktemp("kept") / "mydata"
    late = np.delete(np.arange(400), slice(100, 110)) / 4 + 0.5  # 2.75 s without
    about = {"label_names": np.array(["calm", "wild"]), "sensor_unit": "A"}
    about["channel_names"] = np.array(["a", "b", "c"])
    _npz(folder / "one.npz", 100, frame_label=np.arange(500) // 300, **about)
    _npz(
        folder / "two.npz",
        100,
        sensor=np.zeros((390, 3)),
        sensor_t=late,
        frame_label=np.full(500, -1),
        **about,
    )
    (folder / "bad.npz").write_bytes(b"no archive")
    (folder / "lonely.csv").write_text("time,a\n0,1\n1,2\n")
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    _npz(folder / "blind.npz", 100, frames=None, frame_t=None)
    return folder


def test_the_table_says_what_is_there(mydata):
    table = told.table(_look(mydata))
    assert set(_rows(table, "recordings")) == {"2"}
    # One has 99.8 s in common; two begins 0.5 s late and ends with the video.
    assert (
        "3.32 min: 2 recordings of 99.3 s to 99.8 s" in _rows(table, "recordings")["2"]
    )
    assert _rows(table, "video") == {"all": "16 x 16 x 3 uint8; 5 Hz; unit not known"}
    assert _rows(table, "current") == {
        "all": "3 channels (a, b, c); 4 to 20 Hz; unit A"
    }
    # 300 and 200 frames at 5 Hz; all 500 of the other have no label, as a stream none.
    assert _rows(table, "labels") == {"2 classes": "calm 1 min, wild 0.67 min"}
    clocks = _rows(table, "clock")
    assert (
        "sensor starts with it and ends 0.15 s after it; both run 99.8" in clocks["one"]
    )
    assert "sensor starts 0.5 s after it and ends 0.45 s after it" in clocks["two"]
    (gap,) = _rows(table, "gaps").items()
    assert gap[0] == "two current"
    assert gap[1].startswith("1 interval longer than 1.5 usual ones; the longest 2.75")
    assert "at 25.2 s" in gap[1]  # sample 99
    assert "one rate, within a factor of 2" in " ".join(
        _rows(table, "warning").values()
    )


def test_what_is_left_out_is_named_with_the_reason(mydata):
    left = _rows(told.table(_look(mydata)), "left out")
    assert set(left) == {"bad.npz", "blind.npz", "lonely.csv", "evil.py"}
    assert left["bad.npz"].startswith("must be a whole .npz file; got another kind")
    assert "needs the streams 'video' and 'current'; got" in left["blind.npz"]
    assert "add 'frames' and 'frame_t'" in left["blind.npz"]
    assert "beside a video of the same name" in left["lonely.csv"]
    assert "got another kind" in left["evil.py"]


def test_the_config_is_what_its_comments_say(mydata, tmp_path, capsys):
    before = {path: path.read_bytes() for path in mydata.iterdir()}
    config, text = _written(mydata, tmp_path / "my.py")
    assert {path: path.read_bytes() for path in mydata.iterdir()} == before
    check_config(config)
    assert from_json(to_json(config)) == config
    assert config.data.path == f"{mydata / 'one.npz'},{mydata / 'two.npz'}"
    assert "# DATA: The 2 of 4 files that can be used. Left out: (1) bad.npz:" in text
    # Frames at 5 Hz are the slower stream; 12 Hz is the median of 4 and 20 Hz.
    assert (config.data.tick_s, config.data.window_ticks) == (0.2, 20)
    assert config.data.samples_per_tick.to_dict() == {"video": 1, "current": 2}
    assert config.data.lead_s == 0
    assert "fmalign lead RUN_DIR --least_lead_s=-20 --most_lead_s=20" in " ".join(
        line.strip(" #") for line in text.splitlines()
    )
    assert config.model.modalities.video.stem.strides == (2, 2)
    assert config.augment.video.crop == 1
    for origin in ("DATA", "DEFAULT", "OPEN"):
        assert f"    # {origin}: " in text
    remarks = [line for line in text.splitlines() if line.startswith("    #")]
    assert 60 < max(map(len, remarks)) <= 88
    counts = _counted(config, tmp_path / "prepared")
    said = capsys.readouterr().out
    assert f"windows train {counts['train']}, validation {counts['validation']}" in said
    assert f"# DATA: {counts['train']} training windows make" in text
    steps = counts["train"] // config.batch_size
    assert abs(config.epochs * steps - 500) <= steps / 2


def test_what_nobody_decided_is_printed_and_written(mydata, tmp_path, capsys):
    _, text = _written(mydata, tmp_path / "my.py")
    said = capsys.readouterr().out
    named = " ".join(line.strip(" #") for line in text.splitlines())
    for remark in ("Who learns from whom", "No recording is kept", "2 recordings"):
        assert remark in said
        assert f"OPEN: {remark}" in named
    assert "data.lead_s" in said


LONG = {"frame_hz": 1, "sensor_hz": 2}


def test_long_recordings_are_a_slow_process(tmp_path):
    for name in ("a", "b", "c"):
        _npz(tmp_path / "slow" / f"{name}.npz", 1500, side=(64, 64), **LONG)
    path = init.init(tmp_path / "slow", tmp_path / "slow.py")
    config = load_file(path).get_config()
    assert config.codebook.shared == shipped_config("pretrain").codebook.shared
    assert (config.data.tick_s, config.data.window_ticks) == (2.0, 30)
    assert config.data.samples_per_tick.current == 4
    assert config.data.lead_s == 0
    assert config.model.modalities.video.stem.strides == (4, 2)
    counts = _counted(config, tmp_path / "prepared")
    # Two train: windows of 30 ticks at every 5th of 750, or of 749.
    assert counts["train"] == 2 * ((750 - 30) // 5 + 1)
    assert f"# DATA: {counts['train']} training windows make" in path.read_text()
    searching = load_file(path).get_config("any_lead")
    assert searching.data.draw_lead
    assert searching.data.other_leads_s[-1] == 420
    assert 0 < _counted(searching, tmp_path / "prepared")["train"] < counts["train"]
    assert "slow.py:any_lead" in path.read_text()
    with pytest.raises(ValueError, match="has the variants"):
        load_file(path).get_config("nothing")


def test_too_short_for_any_lead(tmp_path):
    _npz(tmp_path / "slow" / "a.npz", 400, **LONG)
    path = init.init(tmp_path / "slow", tmp_path / "slow.py")
    assert ":any_lead" not in path.read_text()
    # 399 s in common; a quarter of it.
    assert "--most_lead_s=100" in path.read_text()


def test_fast_streams_are_thinned_and_limited(tmp_path):
    _npz(tmp_path / "fast" / "a.npz", 310, frame_hz=25, sensor_hz=500)
    config, text = _written(tmp_path / "fast", tmp_path / "fast.py")
    assert config.data.tick_s == 2.0
    assert config.data.options.max_frame_rate_hz == 1.0
    assert config.data.samples_per_tick.current == 64
    assert "# OPEN: A tick holds 1000 samples: 500 Hz x 2 s" in text
    assert f"{_counted(config, tmp_path / 'prepared')['train']} training" in text


def test_short_clips_are_one_window_each(tmp_path):
    clips = np.arange(300) // 15  # 3 s each at 5 Hz
    _npz(
        tmp_path / "takes" / "a.npz",
        60,
        sensor_hz=25,
        frame_clip=clips,
        sensor_clip=np.arange(1500) // 75,
    )
    config, text = _written(tmp_path / "takes", tmp_path / "takes.py")
    assert config.data.windows == "clip"
    # 2.8 s are in both streams: 0.175 s a tick.
    assert config.data.samples_per_tick.current == round(25 * 2.8 / 16)
    assert "20 clips" in _rows(told.table(_look(tmp_path / "takes")), "recordings")["1"]
    assert _counted(config, tmp_path / "prepared") == {
        "train": 16,
        "validation": 4,
        "test": 0,
    }
    assert config.batch_size == 16
    assert "whole clips are for validation" in text


SECONDS = "time,ia,note,ib\n" + "".join(f"{i / 4},{i},x,{-i}\n" for i in range(240))
DATED = "time,ia\n" + "".join(
    f"2024-05-01 10:00:{i // 4:02d}.{i % 4 * 25:02d},{i}\n" for i in range(240)
)


def test_a_video_with_a_table_and_labels(tmp_path):
    for name in ("a", "b"):
        _video(
            tmp_path / "cam" / f"{name}.mp4",
            60,
            text=SECONDS,
            labels="0,calm\n30,wild\n",
        )
    table = told.table(_look(tmp_path / "cam"))
    assert _rows(table, "labels") == {"2 classes": "calm 1 min, wild 1 min"}
    assert _rows(table, "current")["all"].startswith(
        "2 channels (ia, ib); 4 Hz; unit no"
    )
    config, text = _written(tmp_path / "cam", tmp_path / "cam.py")
    assert config.data.path == str(tmp_path / "cam")
    assert config.data.options.channels == ("ia", "ib")
    assert config.data.options.frame_size == (64, 64)
    assert config.data.tick_s == 0.25
    assert "# OPEN: The unit of these columns" in text
    counts = _counted(config, tmp_path / "prepared")
    assert f"{counts['train']} training windows" in text


def test_a_video_whose_start_nobody_knows(tmp_path, capsys):
    _video(tmp_path / "cam" / "a.mp4", 60, text=DATED)
    config, text = _written(tmp_path / "cam", tmp_path / "cam.py")
    said = capsys.readouterr().out
    assert "ASSUMED: the video begins with the first row of the CSV, 2024-05-01" in said
    assert "next: fill in data.options.video_start, then fmalign prepare" in said
    assert '"a": "",  # its CSV begins at 2024-05-01 10:00:00.00' in text
    with pytest.raises(ValueError, match=r"the moment of the first frame of a\.mp4"):
        _counted(config, tmp_path / "prepared")
    filled = text.replace('"a": ""', '"a": "2024-05-01 10:00:00"')
    (tmp_path / "filled.py").write_text(filled)
    counts = _counted(load_file(tmp_path / "filled.py").get_config(), tmp_path / "p")
    assert f"{counts['train']} training windows" in text


def test_seconds_that_do_not_begin_with_the_video(tmp_path):
    text = "time,a\n" + "".join(f"{1.7e9 + i / 4},{i}\n" for i in range(240))
    _video(tmp_path / "cam" / "a.mp4", 60, text=text)
    (seen,) = _look(tmp_path / "cam").seen
    assert seen.first_time == "1700000000.0"


def test_layout_v2(tmp_path):
    root = tmp_path / "bench"
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        frames = rng.integers(0, 256, (400, 16, 16, 3), dtype=np.uint8)
        fmf.write_recording(
            root,
            name,
            frames=frames,
            masks=frames[..., 0] * 0,
            frame_second=test_fmf.START + test_fmf.seconds(np.arange(400)),
            current=np.ones((800, 3)),
            current_second=test_fmf.START + test_fmf.seconds(np.arange(800) // 2),
        )
    spans = {"train": np.arange(300), "test": np.arange(300, 400)}
    fmf.write_split(root, {p: dict.fromkeys(["one", "two"], spans[p]) for p in spans})
    with pytest.warns(UserWarning, match="training lies nearer than a window"):
        config, text = _written(root, tmp_path / "bench.py")
    assert config.data.source == dataset.BENCHMARK
    assert config.data.split.by == "given"
    assert "No recording is kept" not in text
    assert config.data.path == str(root)
    (root / "pixel-level" / "currents" / "two.csv").write_text("time,a\n")
    with pytest.raises(ValueError, match=r"every recording must be usable; got 1 of 2"):
        choices.decide(_look(root))


def _kinds(folder, **changes):
    _npz(folder / "a.npz", 60)
    _npz(folder / "b.npz", 60, **changes)
    _npz(folder / "c.npz", 60)


REFUSED = {
    "no folder": (lambda folder: None, "a folder of recordings is needed; got no such"),
    "a file": (lambda folder: folder.write_text(""), "is needed; got a file; give"),
    "empty": (
        lambda folder: folder.mkdir(),
        r"\.parquet beside it; got an empty folder",
    ),
    "folders": (
        lambda folder: _npz(folder / "in" / "a.npz", 60),
        "must hold a recording.*got only in; give the folder that they lie in",
    ),
    "unreadable": (
        lambda folder: (folder / "x.npz").write_text("junk"),
        r"at least one recording must be usable; got 0 of 1, the first of the others "
        r"x\.npz: must be a whole \.npz file",
    ),
    "one stream": (
        lambda folder: _npz(folder / "x.npz", 60, sensor=None, sensor_t=None),
        r"got \['video'\] without \['current'\]; add 'sensor' and 'sensor_t'",
    ),
    "features": (
        lambda folder: _npz(folder / "x.npz", 60, frames=np.zeros((300, 7, 7, 8))),
        r"for frames uint8 .*; got float32 \[300, 7, 7, 8\].*configs/cmg_paper\.py",
    ),
    "one sample": (
        lambda folder: _npz(
            folder / "x.npz", 60, sensor=np.ones((1, 3)), sensor_t=np.zeros(1)
        ),
        "two samples of a clip on; got 1 of 'current'; record longer",
    ),
    "channels": (
        lambda folder: _kinds(folder, channels=4),
        r"got 'current' float32 4 in b\.npz, but float32 3 in a\.npz and 1 more; move",
    ),
    "frame sizes": (
        lambda folder: _kinds(folder, side=(32, 32)),
        r"got 'video' uint8 32 x 32 x 3 in b\.npz, but uint8 16 x 16 x 3 in a\.npz and",
    ),
    "not square": (
        lambda folder: _npz(folder / "x.npz", 60, side=(16, 32)),
        r"frames must be square.*; got 16 x 32 in x\.npz; crop or scale them",
    ),
    "two names": (
        lambda folder: [
            _npz(folder / "x.npz", 60),
            _video(folder / "x.mp4", 60, text=SECONDS),
        ],
        "two recordings must not have one name",
    ),
    "too short": (
        lambda folder: _npz(folder / "x.npz", 9),
        "windows; got .*; (use|give) more or longer recordings",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, tmp_path):
    make, told_so = REFUSED[case]
    folder = tmp_path / "data"
    if case not in ("no folder", "a file", "empty"):
        folder.mkdir()
    make(folder)
    with pytest.raises(ValueError, match=told_so):
        init.init(folder, tmp_path / "config.py")
    assert not (tmp_path / "config.py").exists()


def test_files_of_other_classes(tmp_path):
    for name, classes in (("a", ["calm", "wild"]), ("b", ["wild", "calm"])):
        _npz(tmp_path / "in" / f"{name}.npz", 60, label_names=np.array(classes))
    with pytest.raises(
        ValueError, match=r"same classes; got wild, calm in b\.npz, but"
    ):
        choices.decide(_look(tmp_path / "in"))


def test_a_list_of_files_has_no_commas(tmp_path):
    _npz(tmp_path / "in" / "a,b.npz", 60)
    config, _ = _written(tmp_path / "in", tmp_path / "whole.py")
    assert RecordingFiles(config.data.path).names() == ["a,b"]
    _npz(tmp_path / "in" / "c.npz", 60)
    (tmp_path / "in" / "bad.npz").write_text("junk")
    with pytest.raises(ValueError, match=r"a,b\.npz'; rename it, or move bad\.npz els"):
        init.init(tmp_path / "in", tmp_path / "list.py")


def test_where_the_file_may_be(tmp_path, monkeypatch):
    _npz(tmp_path / "my data" / "a.npz", 60)
    folder = tmp_path / "my data"
    monkeypatch.chdir(tmp_path)
    assert init.init(folder) == pathlib.Path("my_data.py")
    kept = (tmp_path / "my_data.py").read_text()
    with pytest.raises(
        ValueError, match=r"my_data\.py: must be a new file; got one th"
    ):
        init.init(folder)
    assert (tmp_path / "my_data.py").read_text() == kept
    (tmp_path / "configs").mkdir()
    assert init.init(folder, pathlib.Path("configs")).parent.name == "configs"
    for out in (folder, folder / "x.py", folder / "new" / "x.py"):
        with pytest.raises(ValueError, match="nothing is written among the recordings"):
            init.init(folder, out)
    with pytest.raises(
        ValueError, match=r"ends in \.py, or a folder that is there; got"
    ):
        init.init(folder, pathlib.Path("configs.txt"))
    (tmp_path / "link.py").symlink_to("nowhere")
    with pytest.raises(ValueError, match="must be a new file"):
        init.init(folder, pathlib.Path("link.py"))
    assert [path.name for path in folder.iterdir()] == ["a.npz"]


HOSTILE = "x\"\"\"\n'''\nimport os\nos.mkdir('ran')\r\\"


def test_names_in_recordings_are_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    _npz(
        folder / "a.npz",
        60,
        channel_names=np.array([HOSTILE, "b", "c"]),
        sensor_unit=HOSTILE,
        frame_label=np.zeros(300, int),
        label_names=np.array([HOSTILE]),
    )
    (folder / f"{HOSTILE}.npz").write_text("junk")
    path = init.init(folder, tmp_path / "config.py")
    load_file(path).get_config()
    assert not (tmp_path / "ran").exists()
    body = path.read_text().partition("def get_config")[2].splitlines()[1:]
    told_of = ("config", "return", "")
    assert all(line.strip().startswith(("#", *told_of)) for line in body), body


def test_names_stay_names_in_values(tmp_path):
    names = ("a'b", 'a"b', "a\\", "电流")
    quoted = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    rows = "".join(f"{i / 4},1,2,3,{i}\n" for i in range(240))
    _video(tmp_path / "cam" / "a.mp4", 60, text=f"time,{quoted}\n{rows}")
    config, _ = _written(tmp_path / "cam", tmp_path / "c.py")
    assert config.data.options.channels == names


@pytest.mark.parametrize("side", [16, 32, 48, 50, 64, 96, 128, 160, 224])
@pytest.mark.parametrize(
    ("strides", "specific"), [((8, 2), (8,)), ((4, 2), (8, 8))], ids=["fast", "slow"]
)
def test_frames_fit_the_parts_that_read_them(side, strides, specific):
    fit = fit_frames(side, side, strides=strides, unpadded=len(specific), target=16)
    patch, target = fit
    stem = FrameStem(features=(8, 8), strides=(patch, *strides[1:]))
    read = ConvSpecific(features=specific, residual=8)
    decode = FrameDecoder(target_size=target, features=8)

    def call(inputs):
        key = jax.random.key(0)
        maps, _ = stem.init_with_output(key, inputs)
        (own, _), _ = read.init_with_output(key, maps)
        return decode.init_with_output(key, jnp.zeros((1, 1, 4)), own, inputs)[0]

    prediction, _ = jax.eval_shape(call, jnp.zeros((1, 1, 1, side, side, 3)))
    assert prediction.shape[-3:-1] == (target, target)
    if side == 64:
        assert (patch, target) == (strides[0], 16)


def test_frames_that_fit_nothing():
    options = {"strides": (8, 2), "unpadded": 1, "target": 16}
    assert fit_frames(47, 47, **options) is None
    assert fit_frames(64, 48, **options) is None


@pytest.mark.slow
def test_the_written_config_trains(mydata, tmp_path, one_device):
    config, _ = _written(mydata, tmp_path / "my.py")
    config.data.prepared_dir = str(tmp_path / "prepared")
    config.max_steps = 2
    config.model.width = 16
    config.model.transformer.layers = 0
    config.codebook.codes = 8
    config.objectives.cross_cpc.width = 8
    config.objectives.window_contrast.weight = 0.0
    state, summary = train(config, tmp_path / "run")
    assert int(state.step) == 2
    assert np.isfinite(summary["validation"]["loss"])


def test_real_recordings(shared_data, tmp_path):
    folder = tmp_path / "utd"
    folder.mkdir()
    for name in ("utd_mhad_s1", "utd_mhad_s2", "weld_runs_ts_only"):
        os.symlink(shared_data / f"{name}.npz", folder / f"{name}.npz")
    seen = _look(folder)
    assert [item.name for item in seen.seen] == ["utd_mhad_s1", "utd_mhad_s2"]
    assert "got ['current'] without ['video']" in seen.left_out[0].why
    lengths, clips = dict.fromkeys(range(27), 0.0), 0
    for name in ("utd_mhad_s1", "utd_mhad_s2"):
        with np.load(shared_data / f"{name}.npz", allow_pickle=False) as raw:
            clip, label = raw["frame_clip"], raw["frame_label"]
            steps = np.diff(raw["frame_t"])[np.diff(clip) == 0]
            clips += len(np.unique(clip))
            for number in lengths:
                lengths[number] += (label == number).sum() * np.median(steps)
            classes = raw["label_names"].tolist()
    found = seen.class_seconds()
    assert [found[name] for name in classes] == pytest.approx(list(lengths.values()))
    choice = choices.decide(seen)
    assert choice.base == "recordings:clips"
    assert sum(map(len, choice.windows.values())) == clips
    path = tmp_path / "utd.py"
    path.write_text(page.text(choice, "utd.py"))
    assert load_file(path).get_config() == choice.config
    assert RecordingFiles(choice.config.data.path).names() == [
        "utd_mhad_s1",
        "utd_mhad_s2",
    ]


def test_of_several_sensors_one_is_to_be_chosen(tmp_path):
    rng = np.random.default_rng(0)
    streams = {"power": rng.normal(size=(600, 2)), "power_t": np.arange(600) / 10}
    streams |= {"vibration": streams["power"][:, :1], "vibration_t": streams["power_t"]}
    nothing = {"sensor": None, "sensor_t": None}

    def look(name, **more):
        _npz(tmp_path / name / "a.npz", 60, **nothing, **streams, **more)
        return _look(tmp_path / name)

    (left,) = look("both", streams=np.array(["power", "vibration"])).left_out
    assert left.why == (
        "a first config is for one sensor beside the video; got 'power', 'vibration', "
        "none of them called 'current'; leave the one that is meant alone in the array "
        "'streams', or take it by a config of your own (docs/recordings.md, "
        '"A sensor with a name of its own")'
    )
    # The first remedy, and what is asked where none is named.
    assert look("one", streams=np.array(["power"])).leading == "power"
    (left,) = look("none").left_out
    assert "or the array 'streams' with the sensor's name, to the file" in left.why
    # The second.
    config = shipped_config("recordings")
    config.data.path = str(tmp_path / "both" / "*.npz")
    config.data.prepared_dir = str(tmp_path / "prepared")
    config.data.lead_s, config.data.window_ticks = 0.0, 2
    rename_modality(config, "current", "power")
    store = dataset.open_dataset(config)
    assert len(dataset.make_windows(store, config)["train"]) > 0


def test_the_command(tmp_path):
    _npz(tmp_path / "in" / "a.npz", 60)

    def call(*words):
        return subprocess.run(
            [sys.executable, "-m", "fmalign_jax", "init", *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
        )

    done = call("in/")
    assert done.returncode == 0, done.stderr
    assert "next: fmalign prepare in.py, then fmalign train in.py" in done.stdout
    again = call("in/")
    assert again.returncode == 2
    assert again.stderr.startswith("error: in.py: must be a new file; got")
    assert again.stderr.count("\n") == 1


def _named(path, seconds, name, **more):
    """Writes a recording whose sensor has a name of its own."""
    rng = np.random.default_rng(0)
    own = {
        "streams": np.array([name]),
        name: rng.normal(size=(int(seconds * 20), 2)).astype(np.float32),
        f"{name}_t": np.arange(int(seconds * 20)) / 20,
    }
    _npz(path, seconds, sensor=None, sensor_t=None, **own, **more)


def test_a_sensor_keeps_its_name_in_the_config(tmp_path, capsys):
    for stem in ("one", "two", "three"):
        _named(tmp_path / "moves" / f"{stem}.npz", 100, "wrist")
    config, text = _written(tmp_path / "moves", tmp_path / "my.py")
    check_config(config)
    assert config.data.leading_stream == "wrist"
    assert config.data.samples_per_tick.to_dict() == {"video": 1, "wrist": 4}
    assert set(config.model.modalities) == {"video", "wrist"}
    assert "current" not in text.replace('"current", "wrist"', "")
    assert "'video' from 'wrist'" in text
    said = capsys.readouterr().out
    counts = _counted(config, tmp_path / "prepared")
    assert f"windows train {counts['train']}, validation {counts['validation']}" in said


def test_a_slow_sensor_of_its_own_name_can_be_searched_at_any_lead(tmp_path):
    for stem in ("a", "b", "c"):
        _named(tmp_path / "slow" / f"{stem}.npz", 1500, "shaft", frame_hz=1)
    path = init.init(tmp_path / "slow", tmp_path / "slow.py")
    config = load_file(path).get_config("any_lead")
    check_config(config)
    assert config.data.leading_stream == "shaft"
    assert config.data.draw_lead


def test_recordings_of_another_sensor_are_left_out(tmp_path):
    for stem in ("one", "two"):
        _named(tmp_path / "moves" / f"{stem}.npz", 100, "wrist")
    _npz(tmp_path / "moves" / "plain.npz", 100)
    seen = _look(tmp_path / "moves")
    assert (seen.leading, len(seen.seen)) == ("wrist", 2)
    assert "got 'current', and 'wrist' in most" in seen.left_out[0].why


@pytest.mark.parametrize("name", ["items", "class", "ﬁn", "a b", "x=1;y"])
def test_a_name_that_would_be_code_is_refused(tmp_path, name):
    _named(tmp_path / "moves" / "one.npz", 100, name)
    with pytest.raises(ValueError, match=r"must be a word|a stream.*name|streams"):
        init.init(tmp_path / "moves", tmp_path / "my.py")
    assert not (tmp_path / "my.py").exists()


def test_of_two_sensors_nobody_chooses(tmp_path):
    more = {
        "ankle": np.zeros((100, 2), np.float32),
        "ankle_t": np.arange(100.0),
    }
    _named(tmp_path / "moves" / "one.npz", 100, "wrist")
    with np.load(tmp_path / "moves" / "one.npz") as arrays:
        both = {**arrays, **more, "streams": np.array(["wrist", "ankle"])}
    np.savez(tmp_path / "moves" / "one.npz", **both)
    told = r"one sensor .* got 'wrist', 'ankle', none"
    with pytest.raises(ValueError, match=told):
        init.init(tmp_path / "moves", tmp_path / "my.py")
