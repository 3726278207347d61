import dataclasses
import json
import logging
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny

from fmalign_jax.run import checkpoint_files, checkpoints as checkpoint, integrity
from fmalign_jax.run.checkpoint_files import abstract
from fmalign_jax.run.checkpoints import Checkpoints, DamagedCheckpointError
from fmalign_jax.run.integrity import MismatchedCheckpointError
from fmalign_jax.training import sharding


@pytest.fixture(scope="module")
def setup():
    return tiny.first_state(tiny.tiny_config())


def _at(state, step):
    return dataclasses.replace(state, step=state.step + step)


def _save(folder, state, steps, scores=(), keep_steps=()):
    with Checkpoints(folder, keep_steps=keep_steps) as checkpoints:
        for index, step in enumerate(steps):
            checkpoints.save(
                _at(state, step),
                data={"next_index": 8 * step},
                config={"seed": 0},
                score=scores[index] if scores else None,
            )


def _assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_state_and_data_position_come_back_bit_for_bit(tmp_path, setup):
    _, mesh, state = setup
    _save(tmp_path / "c", state, [4, 8])
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore_latest(
            abstract(state, sharding.replicated(mesh))
        )
    _assert_equal(restored[0], _at(state, 8))
    assert restored[1] == {"next_index": 64}


def test_it_restores_on_another_number_of_devices(tmp_path, setup):
    _, _, state = setup
    _save(tmp_path / "c", state, [1])
    everywhere = sharding.replicated(sharding.make_mesh())
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored, _ = checkpoints.restore_latest(abstract(state, everywhere))
    _assert_equal(restored, _at(state, 1))
    assert len(restored.model_state["codebook"].counts.sharding.device_set) == 8


def test_a_state_that_devices_share_restores_on_one(tmp_path, setup, monkeypatch):
    _, _, state = setup
    monkeypatch.setattr(sharding, "SMALL", 2**7)
    mesh = sharding.make_mesh()
    layout = jax.tree.map(lambda _: sharding.replicated(mesh), state)
    parts = sharding.divided(state.opt_state, mesh)
    layout = dataclasses.replace(layout, opt_state=parts)
    shared = jax.device_put(state, layout)
    _save(tmp_path / "c", shared, [1])
    with Checkpoints(tmp_path / "c") as checkpoints:
        again, _ = checkpoints.restore_latest(abstract(shared))
        alone, _ = checkpoints.restore_latest(abstract(state))
    for restored in (again, alone):
        _assert_equal(restored, _at(state, 1))
    for found, layout in zip(
        jax.tree.leaves(again.opt_state), jax.tree.leaves(parts), strict=True
    ):
        assert found.sharding.is_equivalent_to(layout, found.ndim)
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(again))


def test_the_latest_two_and_the_best_are_kept(tmp_path, setup):
    _, _, state = setup
    _save(tmp_path / "c", state, [1, 2, 3, 4, 5], scores=[0.1, 0.9, 0.3, 0.2, 0.4])
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]
        assert checkpoints.best_step() == 2
        assert checkpoints.score(2) == 0.9


def test_given_steps_are_kept_besides(tmp_path, setup):
    _, _, state = setup
    _save(tmp_path / "c", state, [1, 2, 3, 4, 5], keep_steps=[2, 7])
    with Checkpoints(tmp_path / "c", keep_steps=[2, 7]) as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]


def test_nothing_to_restore(tmp_path, setup):
    _, mesh, state = setup
    with Checkpoints(tmp_path / "c") as checkpoints:
        target = abstract(state, sharding.replicated(mesh))
        assert checkpoints.restore_latest(target) is None
        assert checkpoints.best_step() is None
        assert checkpoints.score(None) is None


def _array_files(folder: pathlib.Path) -> list[pathlib.Path]:
    files = [p for p in folder.rglob("*") if p.is_file() and "/d/" in str(p)]
    return sorted(files, key=lambda p: p.stat().st_size)


def _flip_bytes(folder):
    file = _array_files(folder)[-1]
    content = bytearray(file.read_bytes())
    # Of one byte one cannot know that it is in use: the file also holds older copies
    # of Orbax's index.
    for position in range(0, len(content), 997):
        content[position] ^= 1
    file.write_bytes(content)


def _truncate(folder):
    file = _array_files(folder)[-1]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def _forge(folder, item, old, new):
    for file in (p for p in (folder / item).rglob("*") if p.is_file()):
        file.write_bytes(file.read_bytes().replace(old, new))


def _forge_position(folder):
    _forge(folder, "data", b"64", b"72")


def _forge_config(folder):
    _forge(folder, "config", b'"seed": 0', b'"seed": 1')


def _cut_digest(folder):
    _forge(folder, "digest", b"{", b"")


def _forge_shapes(folder):
    _forge(folder, "digest", b"float32(", b"float64(")


def _forge_item_names(folder):
    _forge(folder, "digest", b'"optim"', b'"optin"')


@pytest.mark.parametrize(
    "damage",
    [
        *(_flip_bytes, _truncate, _empty, _forge_position, _forge_config),
        *(_cut_digest, _forge_shapes, _forge_item_names),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path, setup, damage, caplog
):
    _, mesh, state = setup
    _save(tmp_path / "c", state, [4, 8])
    damage(tmp_path / "c" / "8")
    target = abstract(state, sharding.replicated(mesh))
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path / "c") as checkpoints:
        restored, position = checkpoints.restore_latest(target)
        assert checkpoints.steps() == [4]
        # The run reaches step 8 again and must be able to save it.
        checkpoints.save(_at(state, 8), data={"next_index": 64}, config={})
    assert "checkpoint 8 is damaged" in caplog.text
    _assert_equal(restored, _at(state, 4))
    assert position == {"next_index": 32}
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert int(checkpoints.restore_latest(target)[0].step) == 8


def test_only_damaged_checkpoints_is_an_error_and_they_stay_in_place(tmp_path, setup):
    _, mesh, state = setup
    _save(tmp_path / "c", state, [4, 8])
    for step in ("4", "8"):
        _flip_bytes(tmp_path / "c" / step)
    with Checkpoints(tmp_path / "c") as checkpoints:
        target = abstract(state, sharding.replicated(mesh))
        with pytest.raises(DamagedCheckpointError, match=r"all \(4, 8\) are damaged"):
            checkpoints.restore_latest(target)
        assert checkpoints.steps() == [4, 8]
    assert not (tmp_path / "damaged_checkpoints").exists()


@pytest.mark.parametrize("name", ["run #1", "what?", "50%", "a%20b", "a|b", "炉子"])
def test_any_folder_name_will_do(tmp_path, setup, name):
    _, mesh, state = setup
    _save(tmp_path / name / "c", state, [4])
    with Checkpoints(tmp_path / name / "c") as checkpoints:
        target = abstract(state, sharding.replicated(mesh))
        assert int(checkpoints.restore_latest(target)[0].step) == 4
    model = checkpoint._items(target)["model"]
    checkpoint_files.restore_model(tmp_path / name / "c", 4, model)


def _with_another_layer(model):
    return model | {"new_layer": {"kernel": np.zeros((3, 3), np.float32)}}


def _with_wider_arrays(model):
    return jax.tree.map(lambda x: np.zeros((*x.shape, 2), x.dtype), model)


@pytest.mark.parametrize("change", [_with_another_layer, _with_wider_arrays])
def test_another_model_is_no_damage(tmp_path, setup, change):
    _, mesh, state = setup
    _save(tmp_path / "c", state, [4, 8])
    params = state.params | {"model": change(state.params["model"])}
    other = dataclasses.replace(state, params=params)
    target = abstract(other, sharding.replicated(mesh))
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(MismatchedCheckpointError, match=r"the version of fmalign"):
            checkpoints.restore_latest(target)
        assert checkpoints.steps() == [4, 8]
    with pytest.raises(MismatchedCheckpointError, match=r"the first is model\["):
        checkpoint_files.restore_model(
            tmp_path / "c", 8, checkpoint._items(target)["model"]
        )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        PermissionError(13, "Permission denied"),
        ValueError("PERMISSION_DENIED: Error opening file"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        ImportError("cannot import name 'ts'"),
        AttributeError("module 'orbax.checkpoint' has no attribute 'args'"),
    ],
)
def test_what_the_machine_lacks_is_no_damage(tmp_path, setup, monkeypatch, error):
    _, mesh, state = setup
    _save(tmp_path / "c", state, [4, 8])

    def fail(item):
        try:
            raise error
        except Exception as cause:  # libraries wrap what they meet
            raise ValueError("could not read") from cause

    monkeypatch.setattr(integrity, "check_readable", fail)
    with Checkpoints(tmp_path / "c") as checkpoints:
        target = abstract(state, sharding.replicated(mesh))
        with pytest.raises(ValueError, match="could not read"):
            checkpoints.restore_latest(target)
        assert checkpoints.steps() == [4, 8]


def test_an_error_without_a_message_is_damage_too(tmp_path, setup, monkeypatch, caplog):
    _, mesh, state = setup
    _save(tmp_path / "c", state, [4, 8])
    readable = integrity.check_readable

    def fail(item):
        if item.parent.name == "8":
            raise NotImplementedError
        readable(item)

    monkeypatch.setattr(integrity, "check_readable", fail)
    with Checkpoints(tmp_path / "c") as checkpoints:
        target = abstract(state, sharding.replicated(mesh))
        assert int(checkpoints.restore_latest(target)[0].step) == 4
    assert "checkpoint 8 is damaged: NotImplementedError" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b'{"sco', b"\xff\x00", b"null", b"{}", b'{"score": NaN}']
)
def test_a_damaged_score_costs_the_score_alone(tmp_path, setup, content, caplog):
    _, mesh, state = setup
    _save(tmp_path / "c", state, [4, 8], scores=[0.1, 0.9])
    (tmp_path / "c" / "8" / "metrics" / "metrics").write_bytes(content)
    with Checkpoints(tmp_path / "c") as checkpoints:
        target = abstract(state, sharding.replicated(mesh))
        assert int(checkpoints.restore_latest(target)[0].step) == 8
        assert checkpoints.best_step() == 4
        assert checkpoints.score(8) is None
    assert "its score is lost" in caplog.text


def test_a_score_that_was_changed_does_not_count(tmp_path, setup, caplog):
    _, _, state = setup
    _save(tmp_path / "c", state, [4, 8], scores=[0.1, 0.9])
    file = tmp_path / "c" / "4" / "metrics" / "metrics"
    assert checkpoint_files.saved_steps(tmp_path / "c") == ([4, 8], 8)
    file.write_text(file.read_text().replace("0.1", "0.95"))
    # Whoever only reads changes nothing.
    assert checkpoint_files.saved_steps(tmp_path / "c") == ([4, 8], 8)
    assert "its score does not count" in caplog.text
    assert file.exists()
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.best_step() == 8
        assert checkpoints.score(4) is None
    assert not file.exists()


def test_scores_without_a_digest_count_as_they_are(tmp_path, setup):
    _, _, state = setup
    _save(tmp_path / "c", state, [4, 8], scores=[0.5, 0.5])
    for step in ("4", "8"):
        file = tmp_path / "c" / step / "digest" / "metadata"
        digest = json.loads(file.read_text())
        del digest["score"], digest["digest"]  # as earlier versions saved it
        file.write_text(json.dumps(digest))
    assert checkpoint_files.saved_steps(tmp_path / "c") == ([4, 8], 8)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.best_step() == 8


def test_a_checkpoint_without_room_is_not_begun(tmp_path, setup, monkeypatch):
    _, _, state = setup
    _save(tmp_path / "c", state, [4])
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(checkpoint._items(state)))
    full = shutil._ntuple_diskusage(total=1 << 40, used=1 << 40, free=size)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(OSError, match=r"a checkpoint takes .* MB are free"):
        _save(tmp_path / "c", state, [8])
    assert [path.name for path in (tmp_path / "c").glob("[0-9]*")] == ["4"]


def test_a_score_that_is_not_finite_costs_no_checkpoint(tmp_path, setup):
    _, _, state = setup
    with pytest.raises(ValueError, match="a score must be finite"):
        _save(tmp_path / "c", state, [1, 2, 3], scores=[0.5, float("nan"), 0.3])
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.best_step() == 1


def test_a_save_out_of_order_is_refused(tmp_path, setup):
    _, _, state = setup
    _save(tmp_path / "c", state, [8])
    with pytest.raises(ValueError, match=r"got step 4 in .*holds \[8\]"):
        _save(tmp_path / "c", state, [4])


def test_a_save_that_was_killed_is_ignored(tmp_path, setup):
    _, mesh, state = setup
    _save(tmp_path / "c", state, [4, 8])
    (tmp_path / "c" / "8").rename(tmp_path / "c" / "8.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path / "c") as checkpoints:
        target = abstract(state, sharding.replicated(mesh))
        assert int(checkpoints.restore_latest(target)[0].step) == 4


def test_encoders_and_codebook_restore_alone(tmp_path, setup):
    _, mesh, state = setup
    _save(tmp_path / "c", state, [4])
    shutil.rmtree(tmp_path / "c" / "4" / "optim")
    model = {
        "params": state.params["model"],
        **state.model_state,
        "statistics": state.statistics,
    }
    target = abstract(model, sharding.replicated(mesh))
    _assert_equal(checkpoint_files.restore_model(tmp_path / "c", 4, target), model)
    _flip_bytes(tmp_path / "c" / "4" / "model")
    with pytest.raises(ValueError, match=r"."):
        checkpoint_files.restore_model(tmp_path / "c", 4, target)
