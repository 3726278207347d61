"""Files that somebody sent: names are no paths, sizes are believed up to a limit."""

import csv
import io
import json
import os
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import export
from test_monitor import ROWS, SETTINGS, C, R, T, _score

from fmalign_jax.alarm import alarm_file
from fmalign_jax.data.files import csv_cell, file_name
from fmalign_jax.data.recordings import RecordingFiles
from fmalign_jax.data.recordings.npz import read_npz
from fmalign_jax.data.store import RecordingStore, builder

AWKWARD = [
    "../../escaped",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a\\b",
    "C:\\x",
    "nul\0byte",
    "two\nlines",
    "x" * 300,
    "\udcff",
    "con",
    "LPT1.txt",
    "trailing ",
    "dot.",
    ".hidden",
    "a:b",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_an_awkward_name_becomes_a_file_of_its_own(text, tmp_path):
    name = file_name(text)
    (tmp_path / name).write_text("")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("text", ["SaveToAvi-3-1-16_29_31-3471", "炉_1", "s1 (2), a=3"])
def test_an_ordinary_name_stays(text):
    assert file_name(text) == text


@given(st.lists(st.text(st.characters(), max_size=300), unique=True, max_size=8))
@settings(deadline=None)
def test_names_stay_inside_and_apart(tmp_path_factory, texts):
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(names)
    root = os.path.abspath("root")
    for name in names:
        assert os.path.dirname(os.path.abspath(os.path.join(root, name))) == root
        assert 0 < len(name.encode()) <= 120


def test_a_stream_whose_name_is_a_path_is_stored_inside(tmp_path):
    name = "../../escaped"
    np.savez(
        tmp_path / "one.npz",
        frames=np.zeros((20, 8, 8, 3), np.uint8),
        frame_t=np.arange(20.0),
        streams=np.array([name]),
        **{name: np.arange(40).reshape(20, 2) / 1.0, f"{name}_t": np.arange(20.0)},
    )
    inside = tmp_path / "a" / "b" / "prepared"
    builder.prepare(RecordingFiles(str(tmp_path / "one.npz")), inside)
    store = RecordingStore(inside)
    assert name in store.streams
    found = store.gather(name, 0, np.arange(20))
    np.testing.assert_array_equal(found, np.arange(40).reshape(20, 2))
    outside = [p for p in tmp_path.rglob("*escaped*") if inside not in p.parents]
    assert not outside


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-x", "@SUM(A1)", "\tx"])
def test_cells_are_no_formulas(text):
    file = io.StringIO()
    csv.writer(file).writerow([csv_cell(text)])
    assert next(csv.reader([file.getvalue()]))[0] == f"'{text}"


@pytest.mark.parametrize("value", ["-1.5", "+3", "-inf", -2.0, "furnace 3", ""])
def test_numbers_and_ordinary_text_stay(value):
    assert csv_cell(value) == value


def _npz(path, key, content):
    """A recording one of whose arrays is these bytes."""
    arrays = {
        "frames": np.zeros((4, 8, 8, 3), np.uint8),
        "frame_t": np.arange(4.0),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            file = io.BytesIO()
            np.save(file, values)
            data = content if name == key else file.getvalue()
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                for part in [data] if isinstance(data, bytes) else data:
                    member.write(part)
    return path


def _header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def test_a_header_that_promises_more_than_there_is_is_refused_at_once(tmp_path):
    path = _npz(tmp_path / "x.npz", "frames", _header((10**9, 64, 64, 3)) + b"0" * 99)
    with pytest.raises(ValueError, match=r"x\.npz, key 'frames': must hold what its"):
        read_npz(path)


def test_a_few_bytes_that_unpack_to_gigabytes_are_refused_at_once(tmp_path):
    def content():
        yield _header((400 << 20,))
        for _ in range(400):
            yield bytes(1 << 20)

    path = _npz(tmp_path / "x.npz", "frames", content())
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=r"may unpack to 250 times its size"):
        read_npz(path)


def test_python_objects_are_refused_without_advice_to_run_them(tmp_path):
    np.savez(
        tmp_path / "x.npz",
        frames=np.zeros((4, 8, 8, 3), np.uint8),
        frame_t=np.array([1.0, {}, "x", None], object),
    )
    with pytest.raises(ValueError, match="Python objects") as caught:
        read_npz(tmp_path / "x.npz")
    assert "pickle" not in str(caught.value)
    assert "x.npz" in str(caught.value)


def _program(function=_score):
    shape = jax.ShapeDtypeStruct((ROWS, T, R, C), jnp.float32)
    return export.export(jax.jit(function), platforms=("cpu",))(shape).serialize()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("alarms") / "alarm.fmalign"
    alarm_file.save(path, SETTINGS, _program())
    return path


def _rewritten(path, target, change=None, program=None, digest=True):
    """A copy with other settings or another program, and a digest that fits."""
    with zipfile.ZipFile(path) as archive:
        found = json.loads(archive.read("alarm.json")) | (change or {})
        content = program or archive.read("score.stablehlo")
    found.pop("digest")
    if digest:
        found["digest"] = alarm_file._digest(found, content)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("alarm.json", json.dumps(found))
        archive.writestr("score.stablehlo", content)
    return target


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("raise_at", float("nan")),
        ("raise_at", 50.0),
        ("raise_at", "0.5"),
        ("clear_at", -1.0),
        ("clear_at", 0.99),
        ("rows", 0),
        ("rows", 10**12),
        ("rows", True),
        ("window_ticks", 2.5),
        ("raise_ticks", 0),
        ("tick_s", 0.0),
        ("tick_s", float("inf")),
        ("max_gap_s", None),
        ("channels", []),
        ("channels", [1, 2, 3]),
        ("until_visible_s", [1.0, 2.0]),
        ("until_visible_s", [3.0, 2.0, 1.0]),
        ("until_visible_s", [1.0, float("nan"), 3.0]),
        ("until_visible_s", [1.0, 2.0, 10**400]),
        ("value_range", None),
        ("value_range", [1.0, 2.0, 3.0]),
        ("value_range", [[0.0, 1.0], [0.0, 1.0]]),
        ("value_range", [[0.0, 1.0], [0.0, 1.0], [0.0]]),
        ("value_range", [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]),
        ("value_range", [[0.0, 1.0], [0.0, 1.0], [0.0, float("inf")]]),
        ("value_range", [[0.0, 1.0], [0.0, 1.0], [0.0, 10**400]]),
        ("value_range", [[0.0, 1.0], [0.0, 1.0], ["0", "1"]]),
        ("samples_per_tick", 5),
        ("unheard_of", 1),
    ],
)
def test_a_setting_of_which_no_alarm_can_be_made_is_refused(good, tmp_path, key, value):
    path = _rewritten(good, tmp_path / "x.fmalign", {key: value})
    with pytest.raises(ValueError, match=r"x\.fmalign: "):
        alarm_file.load(path)


@pytest.mark.parametrize(
    "values", [(1.0, 10**400), (1.0, float("nan")), (True, 2.0), ("1", "2"), (2.0, 1.0)]
)
def test_numbers_in_order_are_told_from_all_else(values):
    assert alarm_file._rising((1, 1.0, 2.5))
    assert not alarm_file._rising(values)


def test_an_alarm_made_before_its_range_was_kept_is_read(good, tmp_path):
    with zipfile.ZipFile(good) as archive:
        found = json.loads(archive.read("alarm.json"))
        content = archive.read("score.stablehlo")
    del found["digest"], found["value_range"]
    assert found["format"] == 2
    found["digest"] = alarm_file._digest(found, content)
    path = tmp_path / "x.fmalign"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("alarm.json", json.dumps(found))
        archive.writestr("score.stablehlo", content)
    assert alarm_file.load(path).settings.value_range == ()
    own = {"value_range": [[0.0, 1.5], [2.0, 2.0], [-1.0, 1.0]]}
    path = _rewritten(good, tmp_path / "y.fmalign", own)
    found = alarm_file.load(path).settings.value_range
    assert found == ((0.0, 1.5), (2.0, 2.0), (-1.0, 1.0))


def test_the_digest_holds_settings_and_program(good, tmp_path):
    alarm_file.load(_rewritten(good, tmp_path / "same.fmalign"))
    path = _rewritten(good, tmp_path / "x.fmalign", {"raise_at": 0.9}, digest=False)
    with pytest.raises(ValueError, match="as they were exported"):
        alarm_file.load(path)
    with zipfile.ZipFile(good) as archive:
        text = json.loads(archive.read("alarm.json"))
        program = bytearray(archive.read("score.stablehlo"))
    program[len(program) // 2] ^= 1
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("alarm.json", json.dumps(text))
        archive.writestr("score.stablehlo", bytes(program))
    with pytest.raises(ValueError, match="as they were exported"):
        alarm_file.load(path)


def test_a_program_that_calls_foreign_code_is_refused_before_it_is_compiled(
    good, tmp_path, monkeypatch
):
    def solving(windows):
        score, code = _score(windows)
        square = windows[:, 0, :1, :1] + jnp.eye(2)
        return score + 0 * jnp.linalg.svd(square, compute_uv=False).sum(-1), code

    path = _rewritten(good, tmp_path / "x.fmalign", program=bytes(_program(solving)))
    monkeypatch.setattr(jax, "jit", None)  # nothing may come so far
    with pytest.raises(ValueError, match="operations alone"):
        alarm_file.load(path)


def test_a_program_that_does_not_fit_its_settings_is_refused(good, tmp_path):
    program = bytes(_program(lambda windows: _score(windows)[0]))
    path = _rewritten(good, tmp_path / "x.fmalign", program=program)
    with pytest.raises(ValueError, match="must take the windows of its settings"):
        alarm_file.load(path)


@pytest.mark.parametrize("name", ["alarm.json", "score.stablehlo"])
def test_an_alarm_that_unpacks_to_gigabytes_is_refused(good, tmp_path, name):
    path = tmp_path / "x.fmalign"
    with (
        zipfile.ZipFile(good) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            content = old.read(entry)
            new.writestr(entry, content + bytes(700 << 20) * (entry == name))
    with pytest.raises(ValueError, match="unpacks to more than"):
        alarm_file.load(path)


@given(place=st.integers(0, 10**9), bit=st.integers(0, 7), cut=st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_damage_is_one_clear_error(good, tmp_path_factory, place, bit, cut):
    data = bytearray(pathlib.Path(good).read_bytes())
    place %= len(data)
    if cut:
        data = data[:place]
    else:
        data[place] ^= 1 << bit
    path = tmp_path_factory.mktemp("damaged") / "x.fmalign"
    path.write_bytes(bytes(data))
    found = SETTINGS  # a bit of the archive that nobody reads leaves the alarm as it is
    message = "x.fmalign"
    try:
        found = alarm_file.load(path).settings
    except ValueError as error:
        message = str(error)
    assert found == SETTINGS
    assert "x.fmalign" in message
