"""How much moves, without a model: planted movement, block borders, real recordings."""

import dataclasses
import functools

import numpy as np
import pytest
import tiny
from scipy import ndimage

from fmalign_jax.config.commands import lead_config
from fmalign_jax.data.recordings import RecordingFiles
from fmalign_jax.data.store import RecordingStore, builder
from fmalign_jax.lead import search, tick_features
from fmalign_jax.lead.motion import motion
from fmalign_jax.lead.tick_features import Clip, TickFeatures

SIDE = 32


def _scene(seed=0):
    """A patterned grey frame that can be moved in a circle."""
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE))
    return 127 + 40 * ndimage.gaussian_filter(noise, 1.5, mode="wrap") / 0.2


def _frames(*grey):
    """One tick a frame: [n, 1, H, W, 3]."""
    frames = np.stack(grey)[:, None, ..., None].clip(0, 255)
    return np.repeat(frames, 3, axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 0), (0, -5), (-2, 7)])
def test_a_shift_is_told_in_pixels(down, right):
    still, moved = _scene(), np.roll(_scene(), (down, right), axis=(0, 1))
    found = motion(_frames(still), _frames(still), _frames(moved))[0]
    change = np.abs(_frames(moved).astype(float) - _frames(still)).mean()
    assert found[0] == pytest.approx(np.log1p(change), rel=1e-5)
    np.testing.assert_allclose(found[1:3], [abs(down), abs(right)], atol=0.15)


@pytest.mark.parametrize("degrees", [0.0, 12.0, -20.0])
def test_a_rotation_is_told_in_degrees(degrees):
    scene = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(64, 64)), 3)
    scene = 127 + 400 * scene
    turned = ndimage.rotate(scene, degrees, reshape=False, mode="nearest", order=1)
    found = motion(_frames(scene), _frames(scene), _frames(turned))[0]
    assert found[3] == pytest.approx(abs(degrees), abs=3.0)


def test_large_frames_are_averaged_down():
    small = np.roll(_scene(), 4, axis=1)
    large = [np.kron(grey, np.ones((4, 4))) for grey in (_scene(), small)]
    own, last = _frames(large[0]), _frames(large[1])
    found = motion(own, own, last)[0]
    # 128 pixels of a side become 64, in which the scene is twice as wide.
    np.testing.assert_allclose(found[1:3], [0, 8], atol=0.2)


def test_a_sensor_moves_by_the_change_of_its_means():
    before = np.array([[[0.0, 5.0], [2.0, 5.0]]])
    own = np.array([[[1.0, 5.0], [4.0, 6.0]]])
    after = np.array([[[4.0, 3.0], [6.0, 2.0]]])
    np.testing.assert_allclose(motion(before, own, after), [[4.0, 2.5, 3.0, 1.0]])
    assert motion(before[:, :1], own[:, :1], after[:, :1]).shape == (1, 2)


def _store(folder, **arrays):
    (folder / "files").mkdir(parents=True, exist_ok=True)
    np.savez(folder / "files" / "one.npz", **arrays)
    builder.prepare(RecordingFiles(str(folder / "files" / "*.npz")), folder / "store")
    return RecordingStore(folder / "store")


def test_ticks_look_across_blocks_and_not_across_clips(tmp_path, monkeypatch):
    n = 12
    clip = np.repeat([0, 1], n // 2).astype(np.int32)
    rng = np.random.default_rng(0)
    sensor = rng.normal(size=(n, 2)).astype(np.float32)
    time_s = np.arange(n) + 20.0 * clip
    store = _store(
        tmp_path,
        frames=np.zeros((n, 8, 8, 3), np.uint8),
        frame_t=time_s,
        frame_clip=clip,
        sensor=sensor,
        sensor_t=time_s,
        sensor_clip=clip,
        channel_names=np.array(["a", "b"]),
    )
    tick = np.arange(n)
    before = np.where(tick % 6 == 0, tick, tick - 1)
    after = np.where(tick % 6 == 5, tick, tick + 1)
    expected = np.abs(sensor[after] - sensor[before])
    for at_once in (512, 5, 1):
        monkeypatch.setattr(tick_features, "_TICKS_AT_ONCE", at_once)
        plain, found = tick_features.without_model(
            functools.partial(store.gather, "current", 0), tick[:, None], clip
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_allclose(plain, sensor, rtol=1e-6)


def _moving_clips(store, data):
    """The clips of recordings, with what needs no model alone."""
    clips = []
    windows = {
        m: tick_features.lay_windows(store, data, m, stride_ticks=5)
        for m in ("video", "current")
    }
    for number, name in enumerate(store.names):
        parts = {}
        for modality, laid in windows.items():
            mine = np.flatnonzero(laid.ticks.recording == number)
            own = laid.ticks.clip[mine]
            plain, moves = tick_features.without_model(
                functools.partial(store.gather, modality, number),
                laid.ticks.samples[modality][mine],
                own,
            )
            parts[modality] = {
                int(clip): TickFeatures(
                    start_s=float(laid.ticks.start_s[mine][own == clip][0]),
                    known=np.ones((own == clip).sum(), bool),
                    semantic=np.zeros(((own == clip).sum(), 1), np.float32),
                    code=None,
                    plain=plain[own == clip],
                    motion=moves[own == clip],
                )
                for clip in np.unique(own)
            }
        clips += [
            Clip(name, clip, parts["video"][clip], parts["current"][clip])
            for clip in sorted(set(parts["video"]) & set(parts["current"]))
        ]
    return clips


@pytest.mark.parametrize("planted_s", [0.0, -0.5, 0.33, 0.7])
@pytest.mark.parametrize(
    ("name", "tick_s", "own_s"),
    [("g1_humanoid", 0.1, 0.05), ("gopro_karma", 0.05, 0.03)],
)
def test_a_lead_planted_in_a_real_recording_is_found(
    name, tick_s, own_s, planted_s, shared_data, tmp_path
):
    arrays = dict(np.load(shared_data / f"{name}.npz", allow_pickle=False))
    arrays["sensor_t"] = arrays["sensor_t"] - planted_s
    store = _store(tmp_path, **arrays)
    data = tiny.tiny_config().data
    data.tick_s = tick_s
    data.samples_per_tick.current = 3
    config = lead_config()
    config.least_lead_s, config.most_lead_s = -2.0, 2.0
    config.indicators = config.chance_of = ("motion",)
    config.indicator = config.evidence = "motion"
    config.bootstrap_draws, config.null_draws = 100, 40
    found = search.find_lead(_moving_clips(store, data), config, data)
    motion_found = found["indicators"]["motion"]
    # The files themselves are `own_s` apart, by what moves in them.
    assert motion_found["estimate_s"] == pytest.approx(planted_s + own_s, abs=0.05)
    low, high = motion_found["interval_s"]
    assert low <= planted_s + own_s <= high


def test_videos_beside_the_sensor_of_another_episode_have_no_lead(
    shared_data, tmp_path
):
    arrays = dict(np.load(shared_data / "g1_humanoid.npz", allow_pickle=False))
    store = _store(tmp_path, **arrays)
    data = tiny.tiny_config().data
    data.tick_s = 0.1
    data.samples_per_tick.current = 3
    config = lead_config()
    config.least_lead_s, config.most_lead_s = -2.0, 2.0
    config.indicators = config.chance_of = ("motion",)
    config.indicator = config.evidence = "motion"
    config.bootstrap_draws = 20
    clips = _moving_clips(store, data)
    verdicts = []
    for turn in range(len(clips)):
        others = [*clips[turn:], *clips[:turn]]
        crossed = [
            dataclasses.replace(
                one,
                leading=dataclasses.replace(other.leading, start_s=one.leading.start_s),
            )
            for one, other in zip(clips, others, strict=True)
        ]
        verdicts.append(search.find_lead(crossed, config, data)["verdict"])
    assert verdicts[0] == search.FOUND  # each beside its own
    # All episodes begin and end at rest, which chance does not know of.
    assert verdicts[1:].count(search.NOT_FOUND) >= 9
