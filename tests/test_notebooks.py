"""The notebooks: their code runs, and what is committed was made of it."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from fmalign_jax.config import load_file

MAKE = load_file(pathlib.Path(__file__).parents[1] / "scripts" / "make_notebooks.py")
SOURCES = MAKE.sources()
per_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def _notebook(source, suffix):
    return json.loads(source.with_suffix(f"{suffix}.ipynb").read_text("utf-8"))


def _source_of(cell):
    return "".join(cell["source"])


def test_there_are_notebooks():
    assert {"first_alignment", "own_recordings", "live_alarm", "from_pytorch"} <= {
        source.stem for source in SOURCES
    }


@pytest.mark.slow
@pytest.mark.timeout(
    1800
)  # on a busy machine; one takes a minute or two on an idle one
@per_source
def test_the_code_runs(source, tmp_path):
    (tmp_path / "cells.py").write_text(MAKE.script(source), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        env=MAKE.environment() | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    logs = [log.read_text()[-1500:] for log in sorted(tmp_path.glob("*.log"))]
    assert done.returncode == 0, "\n".join([done.stderr[-3000:], *logs])


@per_source
def test_what_is_committed_was_made_of_the_source(source):
    for suffix in MAKE.LANGUAGES.values():
        made_of = _notebook(source, suffix)["metadata"]["fmalign_jax"]
        assert made_of["source"] == MAKE.digest(source), "scripts/make_notebooks.py"
        assert made_of["code"] == MAKE.code_digest(source)
        page = source.with_suffix(f"{suffix}.md").read_text("utf-8")
        assert f"<!-- made of {source.name} {MAKE.digest(source)} -->" in page


@per_source
def test_both_languages_have_the_same_cells(source):
    english, chinese = (
        _notebook(source, suffix)["cells"] for suffix in MAKE.LANGUAGES.values()
    )
    assert [cell["cell_type"] for cell in english] == [
        cell["cell_type"] for cell in chinese
    ]
    for one, other in zip(english, chinese, strict=True):
        if one["cell_type"] == "code":
            assert one == other
        else:
            assert _source_of(one) != _source_of(other)
            assert re.search(r"[一-鿿]", _source_of(other))
            assert not re.search(r"[一-鿿]", _source_of(one))
    code = [_source_of(cell) for cell in english if cell["cell_type"] == "code"]
    assert code == MAKE.code(source)


@per_source
def test_outputs_are_small_and_name_no_machine(source):
    pictures = list(source.parent.glob(f"{source.stem}_*.png"))
    assert all(picture.stat().st_size <= MAKE.MOST_BYTES for picture in pictures)
    for suffix in MAKE.LANGUAGES.values():
        page = source.with_suffix(f"{suffix}.md").read_text("utf-8")
        drawn = set(re.findall(r"!\[.*?\]\((.*?)\)", page))
        assert drawn == {picture.name for picture in pictures}
        for cell in _notebook(source, suffix)["cells"]:
            for output in cell.get("outputs", ()):
                assert output.get("name") != "stderr"
                assert output["output_type"] != "error"
                shown = dict(output.get("data", output))
                shown.pop("image/png", None)
                assert not MAKE._MACHINE.search(str(shown))


GOOD = """\
# %% [markdown] en
# # One
#
# Text.
# %% [markdown] zh
# # 一
#
# 文字。
# %%
# %matplotlib inline
# A comment.
# !echo \\
#     shell > out.txt
print(open("out.txt").read())
"""


def test_a_source_is_read_and_becomes_plain_python(tmp_path):
    source = tmp_path / "one.py"
    source.write_text(GOOD, encoding="utf-8")
    english, chinese, code = MAKE.cells(source)
    assert (english.language, english.text) == ("en", "# One\n\nText.")
    assert (chinese.language, chinese.text) == ("zh", "# 一\n\n文字。")
    assert code.language == ""
    (cell,) = MAKE.code(source)
    assert cell.splitlines()[:4] == [
        "%matplotlib inline",
        "# A comment.",
        "!echo \\",
        "    shell > out.txt",
    ]
    (tmp_path / "cells.py").write_text(MAKE.script(source), encoding="utf-8")
    said = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "shell"
    digests = MAKE.digest(source), MAKE.code_digest(source)
    source.write_text(GOOD.replace("Text", "Words"), encoding="utf-8")
    assert MAKE.digest(source) != digests[0]
    assert MAKE.code_digest(source) == digests[1]
    source.write_text(GOOD.replace("A comment", "Another"), encoding="utf-8")
    assert MAKE.code_digest(source) != digests[1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# %% [markdown] zh\n# # 一\n#\n# 文字。\n", "", "one cell 'en' and then"),
        ("# Text.", "Text.", "must begin with '# '"),
        ("# %% [markdown] en", "x = 1\n# %% [markdown] en", "must begin with a cell"),
    ],
)
def test_a_faulty_source_is_refused(tmp_path, old, new, said):
    source = tmp_path / "one.py"
    source.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        MAKE.cells(source)


def _output(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def test_a_page_has_the_code_and_what_it_gave(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[notebooks]'")
    source = tmp_path / "one.py"
    source.write_text(GOOD, encoding="utf-8")
    picture = {
        "output_type": "display_data",
        "metadata": {},
        "data": {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"},
    }
    given = [nbformat.from_dict(own) for own in (_output("shell\n"), picture)]
    notebook = MAKE.notebook_of(source, "zh", [given])
    nbformat.validate(notebook)
    page, pictures = MAKE.page_of("one", "zh", notebook)
    parts = page.split("\n\n")
    assert parts[0] == "# 一"
    assert parts[2].endswith("(one.ipynb)")
    assert parts[3].startswith("```python\n%matplotlib inline")
    assert parts[4:6] == ["```text\nshell\n```", "![图 1](one_1.png)"]
    assert pictures == {"one_1.png": b"\x89PNG\r\n\x1a\n"}
