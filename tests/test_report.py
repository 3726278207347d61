"""What a report gathers, and the page it makes, without a run or a browser."""

import base64
import html.parser
import io
import json
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fmalign_jax import cli, report
from fmalign_jax.run_report import codes as report_codes, files, recording_timeline

PAGE = pathlib.Path(report.__file__).parent / "run_report" / "report_page"
WORDS = json.loads((PAGE / "words.json").read_text(encoding="utf-8"))


@given(st.sets(st.integers(1, 1000), min_size=1, max_size=6))
def test_the_middle_is_the_kept_step_nearest_to_half(kept):
    chosen = report_codes.shown_steps(list(kept))
    assert chosen["end"] == max(kept)
    others = kept - {max(kept)}
    assert ("middle" in chosen) == bool(others)
    if others:
        distance = {abs(step - max(kept) / 2): step for step in others}
        assert abs(chosen["middle"] - max(kept) / 2) == min(distance)
        assert chosen["middle"] in others


@settings(deadline=None)
@given(
    arrays.arrays(np.int64, (4, 6), elements=st.integers(0, 6)),
    arrays.arrays(np.int64, (4, 6), elements=st.integers(-1, 1)),
)
def test_ticks_are_counted_by_code_and_class(codes, labels):
    counts, by_class = report_codes.code_counts(codes, labels, size=9, classes=2)
    for code in range(9):
        assert counts[code] == (codes == code).sum()
        for k in range(2):
            assert by_class[code, k] == ((codes == code) & (labels == k)).sum()


def test_a_codebook_is_described_by_its_use():
    # Two far pairs of near codes; code 4 is never used.
    vectors = np.array([[0.0, 0], [10, 0], [0.1, 0], [10, 0.2], [5, 5]], np.float32)
    train = {"video": np.array([[0, 0, 1]]), "current": np.array([[2, 2, 3]])}
    labels = np.array([[0, 1, -1]])
    found = report_codes.codebook(
        vectors,
        {"train": train, "held_out": {m: c[:, :2] for m, c in train.items()}},
        labels,
        ("normal", "abnormal"),
    )
    assert found["size"] == 5
    assert found["counts"]["train"]["video"] == [2, 1, 0, 0, 0]
    assert found["counts"]["held_out"]["current"] == [0, 0, 2, 0, 0]
    assert found["by_class"]["video"][0] == [1, 1]
    assert found["by_class"]["current"][3] == [0, 0]
    assert sorted(found["order"]) == [0, 1, 2, 3]
    places = {code: place for place, code in enumerate(found["order"])}
    assert abs(places[0] - places[2]) == abs(places[1] - places[3]) == 1
    shown = vectors[found["shown"]]
    expected = np.linalg.norm(shown[:, None] - shown[None], axis=-1)
    np.testing.assert_allclose(found["distances"], expected, atol=6e-4)


@pytest.mark.parametrize("apart", [False, True])
def test_the_map_says_how_modalities_mix(apart):
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 30)
    state = 20.0 * label[:, None, None] * np.ones(4)
    semantic = {
        m: (state + rng.normal(size=(60, 3, 4)) + 1000 * apart * i).astype(np.float32)
        for i, m in enumerate(["video", "current"])
    }
    found = report_codes.feature_map(semantic, label)
    assert found["mixing_chance"] == pytest.approx(60 / 119)
    if apart:
        assert found["mixing"] == 0.0
    else:
        assert found["mixing"] == pytest.approx(60 / 119, abs=0.1)
        assert found["same_label"] == 1.0
    assert found["same_label_chance"] == 0.5
    for points in found["points"].values():
        assert np.isfinite(points).all()
        assert np.shape(points) == (60, 2)
    alone = report_codes.feature_map({"fused": semantic["video"]}, label)
    assert alone["mixing"] == alone["mixing_chance"] == 0
    assert alone["same_label"] is None
    again = report_codes.feature_map(semantic, np.full(60, -1))
    assert again["points"] == found["points"]
    assert again["same_label"] is None


def test_equal_labels_make_one_span():
    time_s = np.arange(6) + 0.5
    label = np.array([0, 0, 1, 1, 1, -1])
    found = recording_timeline.spans(time_s, label)
    assert found == [(0.0, 2.0, 0), (2.0, 5.0, 1), (5.0, 6.0, -1)]
    assert recording_timeline.spans(time_s[:0], label[:0]) == []


@settings(deadline=None)
@given(
    arrays.arrays(
        np.float64, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32)
    ),
    st.integers(1, 20),
)
def test_an_envelope_keeps_lowest_and_highest(values, bins):
    kept = recording_timeline.envelope(values, bins)
    assert (np.diff(kept) > 0).all()
    assert len(kept) <= max(2 * bins, 1)
    assert values[kept].min() == values.min()
    assert values[kept].max() == values.max()
    if len(values) <= 2 * bins:
        assert len(kept) == len(values)


def test_frames_become_small_pictures():
    frame = np.zeros((120, 90, 3), np.uint8)
    frame[:60] = (200, 30, 30)
    text = recording_timeline.jpeg(frame)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    assert picture.shape == (64, 48, 3)
    np.testing.assert_allclose(picture[5, 5], (200, 30, 30), atol=12)
    assert picture[-5, -5].max() < 12
    grey = recording_timeline.jpeg(np.full((8, 8, 1), 90, np.uint8))
    opened = np.asarray(Image.open(io.BytesIO(base64.b64decode(grey))))
    assert opened.shape == (8, 8)


def test_curves_of_a_killed_run_can_be_read(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 2, "split": "train", "loss": 3.0, "norm/update": 1.0}\n'
        '{"step": 4, "split": "train", "loss": NaN, "perplexity/video": 7.0}\n'
        '{"step": 4, "split": "validation", "loss": 2.5}\n'
        '{"step": 6, "split": "tra'
    )
    assert files.read_curves(file) == {
        "train": {
            "step": [2, 4],
            "loss": [3.0, None],
            "perplexity/video": [None, 7.0],
        },
        "validation": {"step": [4], "loss": [2.5]},
    }
    assert files.read_curves(tmp_path / "none") == {}


def test_scores_are_read_by_recording(tmp_path):
    file = tmp_path / "predictions.csv"
    file.write_text(
        "split,recording,time_s,video->current prediction,video->current score\n"
        "test,a,8,normal,0.25\ntest,a,16,abnormal,0.75\ntest,b,8,normal,0.5\n"
    )
    two = files.read_scores(file, "video->current", ["normal", "abnormal"])
    assert two[("test", "a")] == ([8.0, 16.0], [0.25, 0.75])
    assert two[("test", "b")] == ([8.0], [0.5])
    three = files.read_scores(file, "video->current", ["hot", "normal", "abnormal"])
    assert three[("test", "a")] == ([8.0, 16.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="evaluate the run again"):
        files.read_scores(file, "text->current", ["normal", "abnormal"])


def test_a_lead_is_read_as_far_as_it_goes(tmp_path):
    assert files.read_lead(tmp_path) is None
    folder = tmp_path / "lead_time"
    folder.mkdir()
    (folder / "lead_time.json").write_text(
        json.dumps(
            {
                "verdict": "lead found",
                "estimate_s": 240.0,
                "interval_s": [230.0, 250.0],
                "lead_s": [0.0, 240.0],
                "indicators": {
                    "association": {"curve": [0.1, 0.9], "wrong_pairings": [0.0, 0.3]},
                    "too_short": {"curve": [0.1]},
                    "empty": None,
                },
                "per_recording": {"a": {"estimate_s": 239.0}},
            }
        )
    )
    found = files.read_lead(tmp_path)
    assert found["estimate_s"] == 240.0
    assert [curve["name"] for curve in found["curves"]] == ["association"]
    assert found["curves"][0]["value"] == [0.1, 0.9]
    assert found["recordings"] == [
        {"name": "a", "estimate_s": 239.0, "interval_s": None}
    ]
    (folder / "lead_time.json").write_text("{}")
    assert files.read_lead(tmp_path)["curves"] == []
    (folder / "lead_time.json").write_text("[")
    with pytest.raises(ValueError, match=r"lead_time\.json must hold JSON"):
        files.read_lead(tmp_path)


def test_both_languages_say_the_same():
    assert set(WORDS["en"]) == set(WORDS["zh"])
    for key, text in WORDS["en"].items():
        filled = [set(re.findall(r"\{(\w+)\}", t)) for t in (text, WORDS["zh"][key])]
        assert filled[0] == filled[1], key
        assert text == "" or WORDS["zh"][key], key


def test_every_word_that_the_page_uses_is_there():
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    scripts = "".join(
        file.read_text(encoding="utf-8") for file in sorted(PAGE.glob("*.js"))
    )
    used = set(re.findall(r'data-word="(\w+)"', page))
    used |= set(re.findall(r'say\("(\w+)"(?! \+)[,)]', scripts))
    assert len(used) > 60
    assert used <= set(WORDS["en"])
    sections = set(re.findall(r'<section id="(\w+)"', page)) - {"short"}
    assert {f"nav_{name}" for name in sections} <= set(WORDS["en"])


class _Fetches(html.parser.HTMLParser):
    """Collects what a browser would fetch for a page, and its security policy."""

    def __init__(self):
        super().__init__()
        self.fetched, self.policy = [], ""

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in found and not found[name].startswith(("data:", "#")):
                self.fetched.append((tag, found[name]))
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]


def _empty(**changes):
    return {
        "name": "run",
        "summary": None,
        "config": [("data.path", "x")],
        "batch_size": 8,
        "curves": {},
        "evaluation": None,
        "lead": None,
        "encoded": None,
        "notes": [],
        **changes,
    }


def test_a_page_fetches_nothing():
    page = report.page(_empty(), made="2026-01-01")
    reader = _Fetches()
    reader.feed(page)
    assert reader.fetched == []
    assert reader.policy.startswith("default-src 'none';")
    assert "http" not in reader.policy
    assert page.count("plotly.js v") == 1  # plotly.js is there, once
    style = (PAGE / "page.css").read_text(encoding="utf-8")
    assert "url(" not in style
    assert "@import" not in style
    own = "".join(f.read_text(encoding="utf-8") for f in PAGE.iterdir())
    assert "http://" not in own
    assert "https://" not in own
    assert len(page.encode()) < 6e6


def test_no_name_ends_the_script_it_stands_in():
    name = "</script><script>alert(1)</script>"
    page = report.page(_empty(name=name), made="2026-01-01")
    assert name not in page
    held = re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert json.loads(held)["name"] == name


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"with config\.json"):
        report.report(tmp_path)


def test_a_file_that_is_no_report_is_kept(tmp_path):
    mine = tmp_path / "thesis.html"
    mine.write_text("years of work")
    with pytest.raises(ValueError, match="earlier report"):
        report.report(tmp_path, out=mine)
    assert mine.read_text() == "years of work"


def test_an_evaluation_that_was_given_must_be_one(tmp_path):
    assert files.evaluation_folder(tmp_path, None) == tmp_path / "evaluation"
    with pytest.raises(ValueError, match=r"eval\.json"):
        files.evaluation_folder(tmp_path, tmp_path)


def test_wrong_arguments_end_in_one_line(capsys, monkeypatch):
    arguments = cli.Arguments(prog="report")
    arguments.add_argument("run")
    monkeypatch.setattr("sys.argv", ["report", "a", "b"])
    with pytest.raises(SystemExit) as ended:
        arguments.run(print)
    assert ended.value.code == 2
    assert capsys.readouterr().err == ("error: unrecognized arguments: b; try --help\n")
