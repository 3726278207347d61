"""The check before any training: what stands out, the association, what is said."""

import contextlib
import dataclasses
import io
import math
import re
import sys

import numpy as np
import pytest

from fmalign_jax import check
from fmalign_jax.data.files import check_replaceable
from fmalign_jax.data.store.timelines import StreamTimeline
from fmalign_jax.first_config import reading
from fmalign_jax.first_look import (
    association,
    needs,
    page,
    pictures,
    places,
    ticks,
    told,
)
from fmalign_jax.first_look.association import MOTION, PLACES, PLAIN, View
from fmalign_jax.first_look.ticks import Looked, Plan
from fmalign_jax.first_look.verdict import CONFIG, FOLDER, GLOB, Given, judge
from fmalign_jax.lead.search import FOUND, NOT_FOUND, TOO_SHORT
from fmalign_jax.lead.tick_features import Clip, TickFeatures

TICKS, LEAD = 240, 12
PLAN = Plan(
    tick_s=1.0,
    window_ticks=4,
    samples={"video": 1, "current": 1},
    least_s=0.0,
    most_s=30.0,
    slow=True,
    smooth_ticks=1,
)


def test_a_cell_is_compared_with_its_surroundings():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    log = np.log(frames.mean(axis=(1, 4)) + 16)
    around = np.pad(log, ((0, 0), (1, 1), (1, 1)), mode="edge")
    mean = sum(around[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)) / 9
    np.testing.assert_allclose(places.contrasts(frames), log - mean, atol=1e-5)


def test_cells_of_a_larger_frame_are_means():
    small = np.random.default_rng(1).integers(0, 256, (1, 1, 8, 8, 1), dtype=np.uint8)
    large = np.kron(small, np.ones((1, 1, 4, 4, 1), np.uint8))[:, :, :33]  # odd rows
    large = np.concatenate([large, large[:, :, :1]], axis=2)  # are left out
    np.testing.assert_allclose(
        places.contrasts(large), places.contrasts(small), atol=1e-6
    )


def test_light_that_changes_everywhere_does_not_stand_out():
    dim = np.random.default_rng(2).integers(20, 60, (1, 1, 16, 16, 1), dtype=np.uint8)
    spot = dim.copy()
    spot[0, 0, 4:6, 8:10] += 100
    frames = np.concatenate([dim, dim, 3 * dim, spot, dim])
    known = np.array([True, True, True, True, False])
    found = places.standing_out(places.contrasts(frames), known)
    assert found[3, 0] > 3 * np.abs(found[2]).max()
    cells = places.contrasts(frames).reshape(5, -1)
    beyond = cells - np.median(cells[:4], axis=0)
    expected = np.stack([beyond.max(axis=1), beyond.min(axis=1)], axis=1)
    np.testing.assert_allclose(found, expected)


def _part(values, known=None):
    """One feature a tick, the same in every view."""
    column = np.asarray(values, np.float32)[:, None]
    known = np.ones(len(column), bool) if known is None else known
    return TickFeatures(0.0, known, column, None, column, column)


def _looked(*, lead, noise=0.5, clips=4, seed=0, standing=None):
    """A slow common course; the current shows it `lead` ticks earlier, or another."""
    rng = np.random.default_rng(seed)
    found, out = [], []
    for number in range(clips):
        course, other = np.convolve(
            rng.normal(size=2 * TICKS + 7), np.ones(8), "valid"
        )[: 2 * TICKS].reshape(2, TICKS)
        early = other if lead is None else np.roll(course, -lead)
        video = course + noise * rng.normal(size=TICKS)
        current = early + noise * rng.normal(size=TICKS)
        found.append(Clip(f"r{number}", 0, _part(video), _part(current)))
        out.append(found[-1].reference.plain if standing is None else standing(TICKS))
    return Looked(tuple(found), tuple(out))


def _associate(looked, plan=PLAN):
    return association.associate(looked, plan, seed=0, progress=False)


@pytest.fixture(scope="module")
def planted():
    looked = _looked(lead=LEAD)
    return looked, _associate(looked)


def test_a_lead_that_is_planted_is_found(planted):
    _, found = planted
    assert found.verdict == FOUND
    assert found.chance < 1e-6
    assert found.best.name == PLACES
    assert found.best.estimate_s == pytest.approx(LEAD, abs=1)
    low, high = found.best.interval_s
    assert low <= LEAD <= high
    assert not found.best.at_edge
    assert [own.recording for own in found.alone] == ["r0", "r1", "r2", "r3"]
    assert all(abs(own.estimate_s - LEAD) < 4 for own in found.alone)
    for middle_s, (least_s, most_s) in found.halves:
        assert middle_s == pytest.approx(LEAD, abs=2)
        assert least_s <= middle_s <= most_s


def _without_line(values):
    """Returns values less their straight line in time."""
    time = np.arange(len(values))
    return values - np.polyval(np.polyfit(time, values, 1), time)


def test_the_curve_is_a_correlation(planted):
    """Of one feature each it is the mean product of both, without trend."""
    looked, found = planted
    x, y = (
        np.array([getattr(clip, role).plain[:, 0] for clip in looked.clips], float)
        for role in ("reference", "leading")
    )
    x, y = (np.array([_without_line(own) for own in v]) for v in (x, y))
    x, y = x / x.std(), y / y.std()
    expected = [(x[:, k:] * y[:, : TICKS - k]).mean() for k in range(31)]
    for view in found.views.values():
        np.testing.assert_allclose(view.curve, expected, atol=1e-4)
        assert view.peak == pytest.approx(max(expected), abs=1e-4)
    np.testing.assert_array_equal(found.lead_s, np.arange(31))


def test_floor_and_ceiling_are_those_of_the_streams(planted):
    looked, found = planted
    reliability = []
    for role in ("reference", "leading"):
        halves = [getattr(c, role).plain[:, 0].astype(float) for c in looked.clips]
        split = [[_without_line(h[p::2]) for h in halves] for p in (0, 1)]
        even = [own[1:] for own in split[0]]
        odd = [own[:-1] for own in split[1]]
        sizes = [np.concatenate(own).std() for own in split]
        reliability.append(
            np.concatenate([a * b for a, b in zip(even, odd, strict=True)]).mean()
            / math.prod(sizes)
        )
    expected = math.sqrt(math.prod(reliability))
    assert found.views[MOTION].ceiling == pytest.approx(expected, abs=1e-3)
    for view in found.views.values():
        assert 0 < view.floor < view.peak < 1
        # Wrong pairings, all of them: those between recordings are most.
        highest = np.nanmax(view.wrong, axis=1)
        assert highest.min() <= view.floor <= highest.max()


@pytest.mark.parametrize("drawn", ["curves", "alone"])
def test_leads_are_marked_only_where_one_was_found(planted, drawn):
    def red(found):
        further = ["current"] if drawn == "curves" else []
        return getattr(pictures, drawn)(found, *further).count("#d62728")

    *_, found = planted
    assert found.verdict == FOUND
    assert red(found) > 0
    assert red(dataclasses.replace(found, verdict=TOO_SHORT)) == 0


def test_what_has_nothing_in_common_is_not_found():
    found = _associate(_looked(lead=None, seed=3))
    assert found.verdict == NOT_FOUND
    assert found.chance > association.SIGNIFICANCE
    assert not found.halves
    # Three ways to look are three chances to be lucky.
    least = min(view.chance for view in found.views.values())
    assert found.chance == pytest.approx(min(1.0, 3 * least))


def test_places_alone_may_show_the_lead():
    """What stands out is read, and not the brightness of the whole frame."""
    looked = _looked(lead=LEAD)
    blind = np.random.default_rng(5)
    clips = [
        dataclasses.replace(clip, reference=_part(blind.normal(size=TICKS)))
        for clip in looked.clips
    ]
    found = _associate(Looked(tuple(clips), looked.places))
    assert found.best.name == PLACES
    assert found.views[PLACES].chance < 1e-6
    assert found.views[PLAIN].chance > 0.01


def test_both_streams_are_shown_a_lead_apart(planted):
    _, found = planted
    shown = found.shown
    both = np.isfinite(shown.leading)
    assert both.sum() == TICKS - LEAD
    assert np.corrcoef(shown.reference[both], shown.leading[both])[0, 1] == (
        pytest.approx(found.best.peak, abs=0.05)
    )
    np.testing.assert_allclose(shown.time_s, np.arange(TICKS) + 0.5)


def test_one_short_recording_is_too_short():
    found = _associate(
        _looked(lead=LEAD, clips=1), dataclasses.replace(PLAN, most_s=200.0)
    )
    assert found.verdict == TOO_SHORT
    assert found.chance is None
    assert all(view.floor is None for view in found.views.values())


def _view(name, chance, **more):
    values = {"estimate_s": 10.0, "interval_s": (8.0, 12.0), "at_edge": False} | more
    curve = np.array([0.0, 0.5, 0.1])
    return View(name, curve, np.zeros((0, 3)), chance, floor=0.1, ceiling=0.9, **values)


@pytest.mark.parametrize(
    ("slow", "chances", "best"),
    [
        (True, (1e-4, 1e-9, 1e-9), PLACES),
        (False, (1e-9, 1e-4, 1e-9), MOTION),
        (False, (1e-4, 0.5, 1e-9), PLACES),
        (True, (0.02, 0.5, 0.3), PLACES),  # three times as likely: none finds any
        (True, (0.5, None, 0.1), PLAIN),
    ],
)
def test_the_view_that_counts(slow, chances, best):
    views = {
        name: _view(name, chance)
        for name, chance in zip((PLACES, MOTION, PLAIN), chances, strict=True)
    }
    assert association._best(views, slow=slow).name == best


def _association(verdict, **more):
    best = _view(PLACES, 1e-5, **more)
    return association.Association(
        lead_s=np.arange(3.0),
        views={PLACES: best},
        best=best,
        chance=None if verdict == TOO_SHORT else 1e-5,
        verdict=verdict,
        stretches=5,
        stretch_s=20.0,
        alone=(),
        halves=(),
        shown=association.Shown("r", np.zeros(1), np.zeros(1), np.zeros(1)),
    )


@pytest.mark.parametrize(
    ("what", "step"),
    [
        (FOLDER, "fmalign init mine; in it set data.lead_s = 10"),
        (GLOB, "fmalign train pretrain:recordings --data.path=mine --data.lead_s=10"),
        (CONFIG, "fmalign train mine --data.lead_s=10"),
    ],
)
def test_a_lead_that_was_found_is_said_with_what_to_do(what, step):
    said = judge(_association(FOUND, estimate_s=10.4), PLAN, given=Given("mine", what))
    assert "ahead of the video: proposed leads 8 to 12 s, best 10.4 s" in said.sentence
    assert step in said.steps[0]
    assert "fmalign lead RUN --least_lead_s=0 --most_lead_s=30" in said.steps[-1]
    assert not any("edge" in line or "any_lead" in line for line in said.steps)


def test_a_shipped_config_knows_no_sensor_of_another_name():
    plan = dataclasses.replace(PLAN, leading="wrist")
    said = judge(_association(FOUND), plan, given=Given("mine/*.npz", GLOB))
    assert "fmalign init FOLDER; in it set data.lead_s = 10" in said.steps[0]


@pytest.mark.parametrize(
    ("more", "told_of"),
    [
        ({"at_edge": True}, "at the edge"),
        ({"interval_s": (2.0, 12.0)}, "any_lead"),
    ],
)
def test_what_is_doubtful_is_said(more, told_of):
    said = judge(_association(FOUND, **more), PLAN, given=Given("mine", FOLDER))
    assert any(told_of in line for line in said.steps)


@pytest.mark.parametrize(
    ("more", "begin"),
    [
        ({"estimate_s": -10.0, "interval_s": (-12.0, -8.0)}, "The current follows"),
        (
            {"estimate_s": 0.1, "interval_s": (-1.0, 1.0)},
            "Current and video go together",
        ),
    ],
)
def test_the_order_of_the_streams_is_said(more, begin):
    said = judge(_association(FOUND, **more), PLAN, given=Given("mine", FOLDER))
    assert said.sentence.startswith(begin)


def test_nothing_found_and_too_short_are_said():
    given = Given("mine", FOLDER)
    assert judge(_association(NOT_FOUND), PLAN, given=given).sentence.startswith(
        "Nothing found: at no lead between 0 and 30 s"
    )
    short = judge(_association(TOO_SHORT), PLAN, given=given)
    assert short.sentence.startswith("Too short to tell")


def _npz(path, *, seconds=40, lead_s=0.6, side=16, seed=0, channels=2, **more):
    """A still picture that moves at moments; the sensor jumps `lead_s` earlier."""
    rng = np.random.default_rng(seed)
    scene = rng.integers(0, 200, (side, side, 3))
    frame_t, sensor_t = np.arange(seconds * 10) / 10, np.arange(seconds * 50) / 50
    moments = np.sort(rng.uniform(3, seconds - 3, seconds // 3))
    shift = np.searchsorted(moments, frame_t)
    level = np.searchsorted(moments - lead_s, sensor_t) % 2
    arrays = {
        "frames": np.stack([np.roll(scene, k, axis=1) for k in shift]).astype(np.uint8),
        "frame_t": frame_t,
        "sensor": level[:, None] + 0.02 * rng.normal(size=(len(sensor_t), channels)),
        "sensor_t": sensor_t,
    }
    path.parent.mkdir(exist_ok=True)
    arrays = {k: v for k, v in (arrays | more).items() if v is not None}
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def mydata(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "mydata"
    for number, name in enumerate(["one", "a<b>&$x$", "three"]):
        _npz(folder / f"{name}.npz", seed=number)
    (folder / "bad.npz").write_bytes(b"no archive")
    return folder


@pytest.fixture(scope="module")
def checked(mydata):
    out = mydata.parent / "check.html"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        check.check(str(mydata), out=out, least_lead_s=-1.5, most_lead_s=1.5)
    return printed.getvalue(), out


def test_a_folder_is_checked(mydata, checked):
    printed, _ = checked
    found = re.search(r"proposed leads (\S+) to (\S+) s, best (\S+) s", printed)
    assert found, printed
    low, high, best = map(float, found.groups())
    assert low <= 0.6 <= high
    assert best == pytest.approx(0.6, abs=0.15)
    assert "by 'motion'" in " ".join(printed.split())
    assert "bad.npz" in printed
    assert f"fmalign init {mydata}" in " ".join(printed.split())
    assert "times alone do not show it" in printed
    assert "leads of -1.5 to 1.5 s" in " ".join(printed.split())


def _as_wrist(folder, target):
    """Writes recordings anew, whose sensor is declared under a name of its own."""
    target.mkdir()
    for path in folder.glob("*[!d].npz"):
        with np.load(path) as arrays:
            renamed = {k.replace("sensor", "wrist"): v for k, v in arrays.items()}
        np.savez(target / path.name, streams=np.array(["wrist"]), **renamed)


@pytest.mark.parametrize("given", ["a folder", "a config"])
def test_a_sensor_with_a_name_of_its_own_gives_the_same(
    mydata, checked, tmp_path, capsys, given
):
    out, name = tmp_path / "check.html", str(tmp_path / "wrists")
    words = {"least_lead_s": -1.5, "most_lead_s": 1.5}
    if given == "a folder":
        _as_wrist(mydata, tmp_path / "wrists")
        check.check(name, out=out, **words)
    else:
        name = str(tmp_path / "mine.py")
        (tmp_path / "mine.py").write_text(
            "from fmalign_jax.config import rename_modality, shipped_config\n"
            "def get_config():\n"
            "    config = shipped_config('recordings')\n"
            f"    config.data.path = {str(mydata / '*[!d].npz')!r}\n"
            "    config.data.tick_s = 0.1\n"
            "    config.data.options.sensor_name = 'wrist'\n"
            "    rename_modality(config, 'current', 'wrist')\n"
            "    return config\n"
        )
        check.check(name, is_config=True, out=out, **words)
    said = " ".join(capsys.readouterr().out.split())
    assert "The wrist is ahead of the video: proposed leads" in said
    before = re.search(r"proposed leads .* best \S+ s", " ".join(checked[0].split()))
    assert before[0] in said
    for text in (said, out.read_text()):
        assert "wrist" in text
        assert "current" not in text


def test_the_page_holds_all_and_asks_for_nothing(checked):
    text = checked[1].read_text()
    assert page.MARK in text
    assert "default-src 'none'" in text
    links = set(re.findall(r"""(?:src|href)\s*=\s*["']([^"'#][^"']*)""", text))
    assert not {link for link in links if not link.startswith("data:")}
    assert "@import" not in text
    assert "a<b>" not in text
    assert "a&lt;b&gt;&amp;$x$" in text
    assert text.count("<svg") == 4
    for heading in ("recordings are", "Clocks", "in common", "Minutes"):
        assert heading in text


def test_an_earlier_page_is_replaced_and_nothing_else(tmp_path, checked):
    check_replaceable(checked[1], page.MARK, "page")
    foreign = tmp_path / "mine.html"
    foreign.write_text("<html>mine</html>")
    for place in (foreign, tmp_path):
        with pytest.raises(ValueError, match="must be a new file or an earlier page"):
            check.check("nothing", out=place)
    assert foreign.read_text() == "<html>mine</html>"


@pytest.mark.parametrize(
    ("words", "told_of"),
    [
        ((), "needs recordings or --config, one of them; got neither"),
        (("x", "--config", "pretrain"), "one of them; got both"),
        (("nowhere/*.npz",), "must match at least one file"),
        (("--config", "nothing"), "a config must be a file or one of"),
        (("--config", "lead_time"), "--config must be a config of recordings"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, words, told_of):
    monkeypatch.chdir(tmp_path)
    parser = check.cli.Arguments(prog="check")
    check.add_check(parser)
    monkeypatch.setattr(sys, "argv", ["check", *words])
    with pytest.raises(SystemExit) as ended:
        parser.run(check.main)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert told_of in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_range_without_a_tick_is_refused(mydata):
    seen = reading.look(mydata, progress=False)
    with pytest.raises(ValueError, match="below --most_lead_s, by a tick"):
        ticks.plan(seen, least_s=1.0, most_s=1.05)


def test_recordings_of_two_kinds_are_refused(tmp_path):
    _npz(tmp_path / "d" / "a.npz", seconds=10)
    _npz(tmp_path / "d" / "b.npz", seconds=10, channels=3)
    with pytest.raises(ValueError, match="must have the same streams"):
        check.check(str(tmp_path / "d"), out=tmp_path / "o.html")


def test_leads_and_ticks_follow_the_recordings(mydata, tmp_path):
    seen = reading.look(mydata, progress=False)
    plan = ticks.plan(seen)
    # A third of 39.9 s; ten frames a second.
    assert plan.most_s == -plan.least_s == pytest.approx(39.9 / 3)
    assert (plan.tick_s, plan.window_ticks, plan.slow) == (0.1, 20, False)
    assert plan.smooth_ticks == 4
    assert plan.samples == {"video": 1, "current": 5}
    _npz(tmp_path / "d" / "long.npz", seconds=320, side=4)
    slow = ticks.plan(reading.look(tmp_path / "d", progress=False))
    assert (slow.least_s, slow.most_s, slow.slow) == (0.0, 420.0, True)
    assert slow.smooth_ticks == slow.window_ticks


def test_a_config_names_recordings_and_ticks(mydata, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from fmalign_jax.config import shipped_config\n"
        "def get_config():\n"
        "    config = shipped_config('recordings:sliding')\n"
        f"    config.data.path = {str(mydata / 'o*.npz')!r}\n"
        "    config.data.tick_s = 0.2\n"
        "    config.data.window_ticks = 10\n"
        "    return config\n"
    )
    data = check._data(str(file))
    seen, readers = check._look_at(data)
    assert [own.name for own in seen.seen] == ["one"]
    plan = ticks.plan(seen, data=data)
    assert (plan.tick_s, plan.window_ticks) == (0.2, 10)
    looked = ticks.look(seen, readers, plan, progress=False)
    # 40 s hold 200 ticks of 0.2 s.
    assert len(looked.clips[0].reference) == len(looked.places[0]) == 200
    # Speeds are taken from the tick before to the one after, which the ends lack.
    known = looked.clips[0].leading.known
    assert known[1:-1].all()
    assert not known[[0, -1]].any()
    data.leading_stream = "sound"
    (left,) = check._look_at(data)[0].left_out
    assert "needs the streams 'video' and 'sound'" in left.why
    data.reference_stream = "radar"
    with pytest.raises(ValueError, match="whose reference_stream is 'radar'"):
        check._look_at(data)


def test_minutes_are_held_against_what_was_enough(mydata):
    seen = reading.look(mydata, progress=False)
    found = _association(NOT_FOUND)
    slow = needs.needs(seen, PLAN, found)
    assert [need.enough for need in slow] == [False] * 4
    assert all("docs/" in need.source for need in slow)
    # Eight stretches of 20 s; five are there.
    assert "8 stretches of 20 s (2.67 min)" in slow[0].needed
    assert slow[0].there.startswith("5 stretches")
    enough = dataclasses.replace(found, stretches=8)
    assert needs.needs(seen, PLAN, enough)[0].enough
    fast = needs.needs(seen, dataclasses.replace(PLAN, slow=False), found)
    # Three recordings, from 0 to 39.9 s.
    assert fast[1].there == "1.99 min in 3 recordings, 3 clips"
    assert not fast[1].enough


def test_drift_is_said_to_be_unknown(mydata, planted):
    seen = reading.look(mydata, progress=False)
    said = dict(told.clock_limits(seen, planted[1]))
    assert (
        "a clock that is late by a constant and a lead look the same" in said["offset"]
    )
    # The sensor's last row is 0.08 s after the last frame; both begin at 0.
    assert "at most 0.08 s" in said["drift"]
    assert "no drift larger than that" in said["drift by content"]
    apart = dataclasses.replace(
        planted[1], halves=((10.0, (9.0, 11.0)), (14.0, (13.0, 15.0)))
    )
    said = dict(told.clock_limits(seen, apart))
    assert "they differ" in said["drift by content"]


def test_floor_and_ceiling_stand_under_their_names(mydata):
    found = _association(FOUND)
    header, row = told.view_rows(found)
    named = dict(zip(header, row, strict=True))
    assert (named["floor"], named["ceiling"]) == ("0.10", "0.90")
    assert (named["highest"], named["at, s"]) == ("0.50", "10")
    printed = told.table(reading.look(mydata, progress=False), PLAN, found, [])
    said = " ".join(cell for line in printed for cell in line if cell)
    assert "floor 0.10, ceiling 0.90" in said


def test_ticks_in_a_gap_are_not_known(tmp_path):
    kept = np.delete(np.arange(2000), slice(1000, 1250))  # 20 to 25 s, at 50 Hz
    sensor = np.random.default_rng(0).normal(size=(len(kept), 2))
    _npz(tmp_path / "d" / "one.npz", sensor=sensor, sensor_t=kept / 50)
    seen = reading.look(tmp_path / "d", progress=False)
    readers = reading.readers(seen.folder, seen.source)
    plan = ticks.plan(seen)
    part = ticks.look(seen, readers, plan, progress=False).clips[0].leading
    middle_s = part.start_s + (np.arange(len(part)) + 0.5) * plan.tick_s
    inside = (middle_s > 20.3) & (middle_s < 24.7)
    outside = (middle_s < 19.7) | (middle_s > 25.3)
    outside[[0, -1]] = False  # never known
    assert inside.sum() > 40
    assert not part.known[inside].any()
    assert part.known[outside].all()


def test_a_gap_is_white_in_the_picture():
    time_s = np.concatenate([np.arange(0, 10, 0.5), np.arange(14, 20, 0.5)])
    clip = np.zeros(len(time_s), np.int32)
    stream = StreamTimeline(time_s, clip, clip - 1)
    assert list(pictures._pieces(stream)) == [(0.0, 9.5), (14.0, 19.5)]
    clips = dataclasses.replace(stream, clip=(time_s >= 5).astype(np.int32))
    assert [start for start, _ in pictures._pieces(clips)] == [0.0, 5.0, 14.0]


def test_a_lead_that_changes_shows_in_the_halves():
    early, late = _looked(lead=LEAD, noise=0.2), _looked(lead=LEAD + 3, noise=0.2)
    half = np.arange(TICKS) < TICKS // 2
    clips = [
        dataclasses.replace(
            one,
            leading=_part(
                np.where(half, one.leading.plain[:, 0], two.leading.plain[:, 0])
            ),
        )
        for one, two in zip(early.clips, late.clips, strict=True)
    ]
    (first_s, _), (last_s, _) = _associate(Looked(tuple(clips), early.places)).halves
    assert first_s == pytest.approx(LEAD, abs=1)
    assert last_s == pytest.approx(LEAD + 3, abs=1)


def test_the_proposed_leads_are_wider_by_how_late_a_picture_responds(
    planted, monkeypatch
):
    looked, found = planted
    monkeypatch.setattr(association, "_RESPONSE_WINDOWS", 2.5)  # of a tick here
    wider = _associate(looked).views
    for name, by_s in ((PLACES, 2.0), (PLAIN, 2.0), (MOTION, 0.0)):
        least_s, most_s = found.views[name].interval_s
        expected = (least_s - by_s, most_s + by_s)
        assert wider[name].interval_s == pytest.approx(expected)
