"""What a data set says of itself as Croissant, against the files that it describes."""

import hashlib
import json
import pathlib

import numpy as np
import pytest
import tiny

from fmalign_jax import prepare
from fmalign_jax.config import load_file
from fmalign_jax.data import croissant, sample
from fmalign_jax.data.croissant import elements
from fmalign_jax.data.simulator import SimulatedFurnaces
from fmalign_jax.data.store import builder

LICENSE = "https://spdx.org/licenses/CC-BY-4.0"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = tiny.tiny_config(tmp_path_factory.mktemp("tiny"))
    config.data.about.license = LICENSE
    config.data.about.creator = "Works 1"
    prepare.main(config)
    return config


@pytest.fixture(scope="module")
def folder(config):
    (path,) = pathlib.Path(config.data.prepared_dir).glob("*/croissant.json")
    return path.parent


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated")
    sizes = {"recordings": 2, "test_recordings": 1, "duration_s": 20.0}
    return SimulatedFurnaces(str(root), **sizes).directory


def _read(folder):
    return json.loads((folder / "croissant.json").read_text(encoding="utf-8"))


def _sets(described):
    return {one["@id"]: one for one in described["recordSet"]}


def _rows(described, name):
    """Returns the records that stand in a description, with the short names."""
    return [
        {key.removeprefix(f"{name}/"): value for key, value in row.items()}
        for row in _sets(described)[name]["data"]
    ]


def _fields(described, name):
    return {one["name"]: one for one in _sets(described)[name]["field"]}


def _check_files(root, described):
    for one in described["distribution"]:
        if one["@type"] == "cr:FileObject":
            content = (root / one["contentUrl"]).read_bytes()
            assert one["sha256"] == hashlib.sha256(content).hexdigest()
            assert one["contentSize"] == f"{len(content)} B"


def test_streams_and_their_rates_are_those_of_the_raw_files(config, folder):
    raw = sorted(pathlib.Path(config.data.path).parent.glob("*.npz"))
    rows = {row["name"]: row for row in _rows(_read(folder), "streams")}
    assert list(rows) == ["video", "current"]
    for stream, key in (("video", "frame"), ("current", "sensor")):
        values, rates_hz, samples = None, [], 0
        for path in raw:
            with np.load(path) as arrays:
                values = arrays["frames" if stream == "video" else "sensor"]
                rates_hz.append(1 / np.median(np.diff(arrays[f"{key}_t"])))
                samples += len(values)
        shape = ",".join(map(str, values.shape[1:]))
        assert rows[stream]["shape"] == shape
        assert rows[stream]["samples"] == samples
        assert rows[stream]["rate_hz"] == pytest.approx(np.median(rates_hz))
        field = _fields(_read(folder), f"records-{stream}")["values"]
        assert (field["isArray"], field["arrayShape"]) == (True, f"-1,{shape}")
    assert (rows["video"]["dtype"], rows["current"]["dtype"]) == ("uint8", "float32")
    assert rows["current"]["channels"] == "a, b, c"


def test_the_fields_are_those_of_the_stored_records(folder):
    described = _read(folder)
    for name in ("video", "current", "timeline"):
        place = builder.config_directory(folder, name)
        stored = json.loads((place / "features.json").read_text())
        fields = _fields(described, f"records-{name}")
        assert set(fields) == set(stored["featuresDict"]["features"])
        for key, field in fields.items():
            assert field["source"]["extract"] == {"column": key}


def test_every_stored_file_is_in_one_set_and_its_digest_holds(folder):
    described = _read(folder)
    patterns = [
        one["includes"]
        for one in described["distribution"]
        if one["@type"] == "cr:FileSet"
    ]
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    assert sorted(found) == sorted(folder.rglob("*.array_record*"))
    assert len(found) == len(set(found)) >= 3
    _check_files(folder, described)
    assert [one["@id"] for one in described["distribution"] if "contentUrl" in one] == [
        "clocks.csv"
    ]
    header = (folder / "clocks.csv").read_text().partition("\n")[0]
    assert list(_fields(described, "clocks")) == header.split(",")


def test_classes_and_splits_are_those_of_the_windows(config, folder):
    described = _read(folder)
    assert _rows(described, "recordings") == [
        {"number": i, "name": f"furnace_{i}"} for i in range(3)
    ]
    assert _rows(described, "classes") == [
        {"number": 0, "name": "normal"},
        {"number": 1, "name": "abnormal"},
    ]
    assert _rows(described, "splits") == [
        {"name": "train", "url": "cr:TrainingSplit"},
        {"name": "validation", "url": "cr:ValidationSplit"},
    ]
    parts = _rows(described, "parts")
    assert sorted(part["recording"] for part in parts) == [
        f"furnace_{i}" for i in range(3)
    ]
    data = config.data
    for part in parts:
        train = part["split"] == "train"
        stride = data.stride_ticks if train else data.eval_stride_ticks
        ticks = 120  # a recording is as many seconds long
        assert part["windows"] == 1 + (ticks - data.window_ticks) // stride
        last = (part["windows"] - 1) * stride + data.window_ticks
        assert (part["start_s"], part["end_s"]) == (0.0, last * data.tick_s)
    assert [part["split"] for part in parts] == ["train", "train", "validation"]


def test_what_only_the_owner_knows_is_told_or_left_out(folder, simulated):
    described = _read(folder)
    assert described["license"] == LICENSE
    assert described["creator"] == {"@type": "sc:Organization", "name": "Works 1"}
    unknown = {"citeAs", "url", "datePublished", "version"}
    assert not unknown & set(described)
    assert not {"license", "creator", *unknown} & set(_read(simulated))
    with pytest.raises(ValueError, match=r"data\.about tells .*; got licence; use"):
        croissant.videos_and_tables(sample.sample(), "", {"licence": LICENSE})


def test_a_description_that_was_lost_is_written_again(config, folder):
    path = folder / "croissant.json"
    before = path.read_bytes()
    path.unlink()  # as if killed before
    prepare.main(config)
    assert path.read_bytes() == before


def test_an_own_description_is_replaced_and_an_edited_one_is_kept(tmp_path, caplog):
    path = tmp_path / "croissant.json"
    croissant.write(tmp_path, {"name": "one"})
    croissant.write(tmp_path, {"name": "two"})
    assert json.loads(path.read_text())["name"] == "two"
    assert not caplog.text
    edited = path.read_text().replace("two", "mine")
    for content in (edited, "no JSON", '{"name": "theirs"}', "[]", '{"a": NaN}'):
        path.write_text(content)
        croissant.write(tmp_path, {"name": "three"})
        assert path.read_text() == content
        assert "croissant.json: an earlier description is replaced only" in caplog.text
        caplog.clear()
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.json")
    croissant.write(tmp_path, {"name": "three"})
    assert path.is_symlink()
    assert not (tmp_path / "elsewhere.json").exists()


def test_simulated_furnaces_say_what_they_are(simulated):
    described = _read(simulated)
    assert described["name"] == simulated.name
    assert described["description"].startswith("Simulated furnaces, not real ones")
    _check_files(simulated, described)
    named = {one["@id"] for one in described["distribution"]}
    assert {"simulation.json", "pixel-level/train.json"} <= named
    split = {
        part: json.loads((simulated / "pixel-level" / f"{part}.json").read_text())
        for part in ("train", "test")
    }
    assert _rows(described, "parts") == [
        {"recording": name.removesuffix(".mat"), "split": part, "frames": len(frames)}
        for part, files in split.items()
        for name, frames in files.items()
    ]
    files = {
        one["includes"]: len(list(simulated.glob(one["includes"])))
        for one in described["distribution"]
        if one["@type"] == "cr:FileSet"
    }
    assert set(files.values()) == {2}  # recordings


def test_the_sample_says_what_it_is():
    folder = sample.sample()
    described = _read(folder)
    make = load_file(pathlib.Path(__file__).parents[1] / "scripts" / "make_sample.py")
    assert elements.signed(make.described(folder)) == described
    _check_files(folder, described)
    named = {one["@id"] for one in described["distribution"] if "sha256" in one}
    assert named | {"croissant.json"} == {path.name for path in folder.iterdir()}
    assert [row["name"] for row in _rows(described, "classes")] == list(make.LABELS)
    header = (folder / "furnace_1.csv").read_text().partition("\n")[0]
    fields = _fields(described, "records-currents")
    assert list(fields) == ["recording", *header.strip().split(",")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib, below it
def test_mlcroissant_reads_what_is_described(folder, simulated):
    mlcroissant = pytest.importorskip("mlcroissant")
    for root in (folder, sample.sample(), simulated):
        found = mlcroissant.Dataset(str(root / "croissant.json"))
        assert not found.metadata.ctx.issues.errors
    (first, *_) = sorted(simulated.glob("pixel-level/currents/*.csv"))
    lines = first.read_text().splitlines()[1:]
    rows = [
        row
        for row in found.records("records-currents")
        if row["records-currents/recording"].decode() == first.stem
    ]
    assert [[row[f"records-currents/{phase}"] for phase in "abc"] for row in rows] == [
        [float(cell) for cell in line.split(",")[1:]] for line in lines
    ]
