"""The report of a whole tiny run: its data against the run itself, and in a browser."""

import csv
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny

from fmalign_jax import evaluate, report, train
from fmalign_jax.config.commands import evaluation_config
from fmalign_jax.evaluation.splits import load_splits
from fmalign_jax.run import restore
from fmalign_jax.run.frozen_encoder import FrozenEncoder
from fmalign_jax.run_report import data as report_data
from fmalign_jax.training import setup, sharding

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run with its evaluation, and the parameters that it started with."""
    folder = tmp_path_factory.mktemp("report")
    tiny.write_recordings(folder / "raw", seed=86)  # each has windows of both classes
    config = tiny.tiny_config(folder)
    config.max_steps, config.epochs = 0, 2.0  # of three steps each
    config.data.split.validation_recordings = ("furnace_1",)
    config.data.split.test_recordings = ("furnace_2",)
    started = []
    first_state = setup.first_state

    def remember(*arguments):
        state = first_state(*arguments)
        started.append(jax.device_get(state))
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "first_state", remember)
        train.train(config, folder / "run")
    asked = evaluation_config()
    asked.checkpoint = str(folder / "run")
    asked.oracle_epochs, asked.random_encoders, asked.bootstrap_draws = 0, 0, 20
    asked.head.steps = 20
    evaluate.evaluate(asked)
    return folder / "run", asked, started[0]


@pytest.fixture(scope="module")
def collected(run):
    """The data of its report, and the encoders that the report made untrained."""
    made = []
    untrained = report_data._untrained

    def remember(*arguments):
        made.append(untrained(*arguments))
        return made[-1]

    before = _snapshot(run[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_data, "_untrained", remember)
        found = report_data.collect(run[0])
    assert _snapshot(run[0]) == before
    return found, made[0]


@pytest.fixture(scope="module")
def data(collected):
    return collected[0]


def _snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def test_nothing_is_lacking(data):
    assert data["notes"] == []
    assert data["summary"]["step"] == 6
    assert ("data.lead_s", 0.0) in data["config"]
    assert data["curves"]["train"]["step"] == [2, 3, 4, 6]
    assert data["evaluation"]["headline_split"] == "test"
    assert data["encoded"]["modalities"] == ["video", "current"]
    assert data["encoded"]["classes"] == ["normal", "abnormal"]


def test_codes_are_counted_as_the_encoders_give_them(run, data):
    path, asked, _ = run
    opened = restore.open_run(path, str(data["encoded"]["step"]))
    splits = load_splits(asked, opened.config)
    mesh = sharding.one_device_mesh()
    encoder = FrozenEncoder(opened.config, ("video", "current"), mesh)
    frozen = restore.restore(opened, mesh)
    book = data["encoded"]["codebook"]
    for part, split in (("train", splits.head), ("held_out", splits.by_name["test"])):
        seen = encoder(frozen, split.store, split.windows, keep_semantic=False)
        for modality, codes in seen.codes.items():
            expected = [(codes == code).sum() for code in range(book["size"])]
            assert book["counts"][part][modality] == expected
            if part == "train":
                label = split.windows.label(np.arange(len(split)))
                abnormal = [(codes[label == 1] == c).sum() for c in range(book["size"])]
                assert [row[1] for row in book["by_class"][modality]] == abnormal


def test_the_map_starts_with_the_untrained_encoders(run, collected):
    data, untrained = collected
    stages = data["encoded"]["map"]
    assert data["encoded"]["kept"] == [3, 4, 6]  # half way, and the latest two
    assert [stage["stage"] for stage in stages] == ["start", "middle", "end"]
    assert [stage["step"] for stage in stages] == [0, 3, 6]
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(untrained.params),
        run[2].params["model"],
    )
    windows = data["encoded"]["map_windows"]
    assert set(windows["recording"]) == {"furnace_2"}
    for stage in stages:
        assert len(stage["points"]["current"]) == len(windows["label"]) == 15


def test_a_timeline_holds_what_was_recorded(run, data):
    path, _, _ = run
    (found,) = data["encoded"]["recordings"]
    raw = np.load(path.parent / "raw" / "furnace_2.npz")
    assert found["name"] == "furnace_2"
    # The current starts first, at 0.25 s, and is where times are counted from.
    assert found["start_s"] == 0.25
    for number, channel in enumerate(found["sensors"]["current"]["channels"]):
        np.testing.assert_allclose(channel["t"], raw["sensor_t"] - 0.25)
        np.testing.assert_allclose(channel["v"], raw["sensor"][:, number], rtol=1e-4)
    np.testing.assert_allclose(found["frames"]["t"], raw["frame_t"] - 0.25)
    label = np.full(len(raw["frame_t"]), -1)
    for start, end, k in found["label"]:
        label[(raw["frame_t"] - 0.25 >= start) & (raw["frame_t"] - 0.25 < end)] = k
    np.testing.assert_array_equal(label, raw["frame_label"])
    with (path / "evaluation" / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    np.testing.assert_allclose(
        found["score"]["v"], [float(row["video->current score"]) for row in rows]
    )
    np.testing.assert_allclose(
        found["score"]["t"], [float(row["time_s"]) - 0.25 for row in rows]
    )
    for modality in ("video", "current"):
        codes = " ".join(row[f"{modality} codes"] for row in rows).split()
        assert found["codes"][modality]["code"] == list(map(int, codes))


def test_what_is_gone_is_left_out_and_said(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run[0], path, ignore=shutil.ignore_patterns("evaluation"))
    settings = json.loads((path / "config.json").read_text())
    settings["data"]["path"] = str(tmp_path / "moved" / "*.npz")
    (path / "config.json").write_text(json.dumps(settings))
    (path / "summary.json").unlink()
    found = report_data.collect(path)
    assert found["encoded"] is None
    assert [name for name, _ in found["notes"]] == ["no_codes", "no_evaluation"]
    assert "moved" in found["notes"][0][1]
    page = report.report(path, out=tmp_path / "report.html")
    assert page.stat().st_size < 10e6
    report.report(path, out=page)  # an earlier report is replaced


@pytest.fixture
def view(browser, data, tmp_path):
    """A report in the browser; afterwards it must have loaded and said nothing."""
    file: pathlib.Path = tmp_path / "report.html"
    file.write_text(report.page(data, made="2026-01-01"), encoding="utf-8")
    opened = browser.new_page(viewport={"width": 1366, "height": 768}, locale="en-US")
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.set_default_timeout(120_000)  # milliseconds, on a busy machine
    opened.goto(file.as_uri())
    opened.wait_for_selector("#curve_plots .main-svg")
    yield opened
    opened.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]


@pytest.mark.slow
def test_the_switch_changes_every_word(view):
    assert view.inner_text("#timeline h2") == "Timeline of a recording"
    assert "alarm score" in view.inner_text("#timeline_plot")
    view.click("#language button[value=zh]")
    assert view.inner_text("#timeline h2") == "一段记录的时间线"
    assert "报警分数" in view.inner_text("#timeline_plot")
    assert view.get_attribute("html", "lang") == "zh-CN"
    left = view.evaluate("""() => [...document.querySelectorAll("main [data-word]")]
        .filter((node) => node.textContent === WORDS.en[node.dataset.word]
            && WORDS.en[node.dataset.word] !== WORDS.zh[node.dataset.word]).length""")
    assert left == 0
    view.click("#language button[value=en]")
    assert view.inner_text("#map h2").startswith("Map of the features")


@pytest.mark.slow
def test_the_timeline_zooms_and_tells_moments(view):
    range_of = "() => document.getElementById('timeline_plot').layout.xaxis.range"
    captions = "#strip figcaption"
    whole = view.evaluate(range_of)
    before = view.locator(captions).all_inner_texts()
    view.click("#zoom button[value=in]")
    view.wait_for_timeout(300)
    low, high = view.evaluate(range_of)
    assert high - low == pytest.approx((whole[1] - whole[0]) / 2)
    after = view.locator(captions).all_inner_texts()
    assert after != before
    assert all(low <= float(text.split()[0]) <= high for text in after)
    view.click("#zoom button[value=all]")
    assert view.evaluate(range_of) == whole
    stack = view.locator("#timeline .stack")
    width = stack.bounding_box()["width"]
    told = []
    for share in (0.3, 0.8):
        # Scrolls there first: a mouse moves within what is shown.
        stack.hover(position={"x": share * width, "y": 200}, force=True)
        told.append(view.inner_text("#inspector"))
    assert told[0] != told[1]
    assert "code, video" in told[0]
    view.click("#colour button[value=code]")
    assert view.get_attribute("#colour button[value=code]", "aria-pressed") == "true"


@pytest.mark.slow
def test_a_drag_zooms_the_plot(view):
    box = view.locator("#timeline_plot .nsewdrag").first.bounding_box()
    view.mouse.move(box["x"] + 100, box["y"] + 40)
    view.mouse.down()
    view.mouse.move(box["x"] + 300, box["y"] + 60, steps=5)
    view.mouse.up()
    view.wait_for_timeout(300)
    low, high = view.evaluate(
        "() => document.getElementById('timeline_plot').layout.xaxis.range"
    )
    length = view.evaluate("() => DATA.encoded.recordings[0].length_s")
    assert 0 < low < high < length
    assert high - low == pytest.approx(length * 200 / box["width"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1366, 1200, 800])
def test_nothing_runs_out_of_its_box_or_over_another(view, width):
    view.set_viewport_size({"width": width, "height": 768})
    view.wait_for_timeout(300)
    cut = view.evaluate("""() =>
        [...document.querySelectorAll(".tile, .tile b, .scroll")]
        .filter((node) => node.scrollWidth > node.clientWidth)
        .map((node) => node.className + node.textContent.slice(0, 40))""")
    assert cut == []
    buttons, label = (
        view.locator(f"#timeline_plot {part}").first.bounding_box()
        for part in (".modebar", ".nsewdrag")
    )
    assert buttons["y"] + buttons["height"] <= label["y"] + 1
