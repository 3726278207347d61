"""Names in pictures whose characters the usual font lacks."""

import logging

import numpy as np
from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure

from fmalign_jax.evaluation import fonts


def _draw(path, names, caplog):
    """Returns what is drawn, and the warnings of glyphs that no font had."""
    with caplog.at_level(logging.WARNING), fonts.readable(names) as shown:
        figure = Figure()
        axes = figure.subplots()
        axes.set_xticks(np.arange(len(names)), [shown[name] for name in names])
        figure.savefig(path)
    return shown


def test_names_that_the_usual_font_has_are_left_alone(tmp_path, caplog):
    families = list(rcParams["font.family"])
    shown = _draw(tmp_path / "a.png", ["calm", "Δ é"], caplog)
    assert shown == {"calm": "calm", "Δ é": "Δ é"}
    assert not caplog.records
    assert rcParams["font.family"] == families


def test_names_that_no_font_has_become_numbers_and_are_said(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path)])
    shown = _draw(tmp_path / "a.png", ["正常", "calm", "异常"], caplog)
    assert shown == {"正常": "(0)", "calm": "calm", "异常": "(1)"}
    assert "characters of 正常, 异常: the pictures say (0), (1)" in caplog.text
    assert "Glyph" not in caplog.text


def test_a_font_of_the_machine_that_has_them_is_taken(tmp_path, caplog, monkeypatch):
    """A font of matplotlib, with signs of its own, stands for a Chinese one."""
    usual = font_manager.findfont("DejaVu Sans")
    only = fonts._characters(font_manager.findfont("STIXGeneral"))
    character = sorted(only - fonts._characters(usual))[0]
    path = font_manager.findfont("STIXGeneral")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [path])
    shown = _draw(tmp_path / "a.png", [character], caplog)
    assert shown == {character: character}
    assert not caplog.records
