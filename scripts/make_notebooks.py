"""Makes the notebooks, in English and Chinese, and their pages of the documentation.

    pip install -e '.[notebooks]'
    python scripts/make_notebooks.py               all of docs/notebooks/*.py
    python scripts/make_notebooks.py alarm         docs/notebooks/alarm.py alone

A source holds both languages and the code once, in the percent format of Jupytext:

    # %% [markdown] en
    # Text.
    # %% [markdown] zh
    # 文字。
    # %%
    # !fmalign train pretrain:smoke
    run = fm.load("runs/first")

A line of code that begins with `# !` or `# %` is one of the shell or of IPython; it
may go on in the next after a backslash. Of
NAME.py are made NAME.ipynb and NAME.zh.ipynb, with what the code gave, and from them
the pages NAME.md, NAME.zh.md and their pictures. The code runs once, in an empty
folder, and again only if it has changed; what it writes to standard error (progress
bars) is left out. A source ends up in what is made by its digest, which
tests/test_notebooks.py compares.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
LANGUAGES = {"en": "", "zh": ".zh"}
MOST_BYTES = 100_000
"""Of one picture."""

_CELL = re.compile(r"^# %%(?: \[markdown\] (en|zh))?$", re.MULTILINE)
_MAGIC = re.compile(r"^# [!%](?:.*\\\n# )*.*$", re.MULTILINE)
_SHELL = re.compile(r"^!((?:.*\\\n)*.*)$", re.MULTILINE)
_MACHINE = re.compile(r"(?:/root|/tmp|/work|/home|/Users)/\S*")
_NOTEBOOK = {"en": "This page as a notebook", "zh": "本页的 notebook 文件"}
_PICTURE = {"en": "Picture", "zh": "图"}


class Cell(NamedTuple):
    """A cell of a source: its text, and its language ("" for code)."""

    language: str
    text: str


def sources() -> list[pathlib.Path]:
    """Returns the sources of all notebooks."""
    return sorted(FOLDER.glob("*.py"))


def cells(source: pathlib.Path) -> list[Cell]:
    """Returns the cells of a source.

    Raises:
      ValueError: text of one language lacks the other, or is no comment.
    """
    parts = _CELL.split(source.read_text(encoding="utf-8"))
    if parts[0].strip():
        raise ValueError(f"{source}: must begin with a cell; got {parts[0][:40]!r}")
    found = []
    for language, text in zip(parts[1::2], parts[2::2], strict=True):
        lines = text.strip("\n").splitlines()
        if language and not all(re.match(r"#( |$)", line) for line in lines):
            raise ValueError(
                f"{source}: lines of text must begin with '# '; got {lines[0]!r} and "
                "others; end the cell with '# %%'"
            )
        if language:
            lines = [line[2:] for line in lines]
        found.append(Cell(language or "", "\n".join(lines)))
    # English, then Chinese, without code between them.
    order = "".join(cell.language[:1] or "." for cell in found)
    if order.replace("ez", "").strip("."):
        raise ValueError(
            f"{source}: each text must be one cell 'en' and then one cell 'zh'; got "
            f"{order}; translate what is missing"
        )
    return found


def code(source: pathlib.Path) -> list[str]:
    """Returns the code cells, as a notebook has them."""
    return [_shown(cell.text) for cell in cells(source) if not cell.language]


def _shown(text: str) -> str:
    """Returns a code cell with its lines of the shell and of IPython as they run."""
    return _MAGIC.sub(lambda found: re.sub("^# ", "", found[0], flags=re.M), text)


def script(source: pathlib.Path) -> str:
    """Returns the code as plain Python, for a test: the shell's lines as processes."""
    whole = _SHELL.sub(
        lambda found: f"subprocess.run({found[1]!r}, shell=True, check=True)",
        "\n".join(code(source)),
    )
    kept = [line for line in whole.splitlines() if not line.startswith("%")]
    return "\n".join(["import subprocess", *kept]) + "\n"


def digest(source: pathlib.Path) -> str:
    """Returns what tells two versions of a source apart."""
    return hashlib.sha256(source.read_bytes()).hexdigest()[:12]


def code_digest(source: pathlib.Path) -> str:
    """Returns what tells two versions of a source's code apart."""
    return hashlib.sha256("\0".join(code(source)).encode()).hexdigest()[:12]


def environment() -> dict[str, str]:
    """Returns the variables with which the code finds this checkout and `fmalign`."""
    own = os.environ
    return {
        **own,
        "PATH": os.pathsep.join(
            [str(pathlib.Path(sys.executable).parent), own["PATH"]]
        ),
        "PYTHONPATH": os.pathsep.join([str(ROOT), own.get("PYTHONPATH", "")]),
    }


def execute(source: pathlib.Path) -> list[list[Any]]:
    """Runs the code in an empty folder; returns the outputs of each cell.

    Raises:
      ValueError: an output names a folder of this machine.
    """
    import nbclient
    import nbformat

    form = nbformat.v4
    notebook = form.new_notebook(
        cells=[form.new_code_cell(text) for text in code(source)]
    )
    with tempfile.TemporaryDirectory() as place:
        folder = str(pathlib.Path(place).resolve())
        client = nbclient.NotebookClient(
            notebook,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute(env=environment())
    found = []
    for cell in notebook.cells:
        outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        found.append([_relative(out, f"{folder}/") for out in outputs])
    named = _MACHINE.search(str([[_text(out) for out in own] for own in found]))
    if named:
        raise ValueError(
            f"{source}: outputs must not name folders of a machine; got {named[0]}; "
            "give relative paths"
        )
    return found


def _relative(output: Any, folder: str) -> Any:
    """Returns an output whose paths below a folder are relative to it."""
    if "text" in output:
        output.text = output.text.replace(folder, "")
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            output.data[kind] = value.replace(folder, "")
    return output


def _text(output: Mapping[str, Any]) -> str:
    """Returns an output as plain text; empty for one that is a picture."""
    data = output.get("data", {})
    return "" if "image/png" in data else output.get("text", data.get("text/plain", ""))


def notebook_of(
    source: pathlib.Path, language: str, outputs: Sequence[Sequence[Any]]
) -> Any:
    """Returns the notebook of one language, with what its code gave."""
    import nbformat

    form, found, given = nbformat.v4, [], iter(outputs)
    for cell in cells(source):
        # Of its place in the source, so that another making gives the same file.
        name = f"cell-{len(found)}"
        if cell.language == language:
            found.append(form.new_markdown_cell(cell.text, id=name))
        elif not cell.language:
            text = _shown(cell.text)
            number = sum(one.cell_type == "code" for one in found) + 1
            found.append(
                form.new_code_cell(
                    text, outputs=next(given), id=name, execution_count=number
                )
            )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made_of = {"source": digest(source), "code": code_digest(source)}
    metadata = {"kernelspec": kernel, "fmalign_jax": made_of}
    return form.new_notebook(cells=found, metadata=metadata)


def page_of(name: str, language: str, notebook: Any) -> tuple[str, dict[str, bytes]]:
    """Returns a notebook as a page in Markdown, and the pictures by file name.

    Raises:
      ValueError: a picture is too large for the documentation.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            if len(parts) == 1:
                parts.append(f"[{_NOTEBOOK[language]}]({name}.ipynb)")
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            picture = output.get("data", {}).get("image/png")
            if picture is None:
                parts.append(f"```text\n{_text(output).rstrip()}\n```")
                continue
            number = len(pictures) + 1
            file = f"{name}_{number}.png"
            pictures[file] = base64.b64decode(picture)
            if len(pictures[file]) > MOST_BYTES:
                raise ValueError(
                    f"a picture must have at most {MOST_BYTES} bytes; got "
                    f"{len(pictures[file])} of {file}; draw it smaller"
                )
            parts.append(f"![{_PICTURE[language]} {number}]({file})")
    made_of = notebook.metadata["fmalign_jax"]["source"]
    parts.append(f"<!-- made of {name}.py {made_of} -->")
    return "\n\n".join(parts) + "\n", pictures


def kept_outputs(source: pathlib.Path) -> list[list[Any]] | None:
    """Returns what the code gave when it last ran; None if it has changed since."""
    import nbformat

    made = source.with_suffix(".ipynb")
    if not made.is_file():
        return None
    notebook = nbformat.read(made, as_version=4)
    if notebook.metadata["fmalign_jax"]["code"] != code_digest(source):
        return None
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def make(source: pathlib.Path) -> None:
    """Writes the notebooks and the pages of a source."""
    import nbformat

    sys.path.insert(0, str(ROOT / "scripts"))
    import translations

    outputs = kept_outputs(source)
    if outputs is None:
        print(f"running {source.name}")
        outputs = execute(source)
    name = source.stem
    for old in FOLDER.glob(f"{name}_*.png"):
        old.unlink()
    for language, suffix in LANGUAGES.items():
        notebook = notebook_of(source, language, outputs)
        nbformat.validate(notebook)
        nbformat.write(notebook, FOLDER / f"{name}{suffix}.ipynb")
        text, pictures = page_of(name, language, notebook)
        (FOLDER / f"{name}{suffix}.md").write_text(text, encoding="utf-8")
        for file, content in pictures.items():
            (FOLDER / file).write_bytes(content)
    translations.mark(FOLDER / f"{name}.md")


def main() -> None:
    """Makes those of the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = {source.stem: source for source in sources()}
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    names = parser.parse_args().names or list(known)
    if unknown := sorted(set(names) - set(known)):
        parser.error(
            f"a notebook must be one of {', '.join(known)}; got {', '.join(unknown)}; "
            "correct the name"
        )
    for name in names:
        make(known[name])


if __name__ == "__main__":
    main()
