"""The documentation: each page in both languages, a site that needs no internet."""

import collections
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest

from fmalign_jax.config import load_file

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
TRANSLATIONS = load_file(ROOT / "scripts" / "translations.py")
HOOKS = DOCS / "site" / "hooks.py"
PAGES = [page.relative_to(DOCS) for page in TRANSLATIONS.pages()]


def test_no_page_is_behind():
    behind = [
        str(page) for page in TRANSLATIONS.pages() if TRANSLATIONS.is_behind(page)
    ]
    assert not behind, "translate what changed, then scripts/translations.py PAGE"


def _prose(text):
    """Returns a page without its code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?:\n\n|\A)(?:(?:    .*)?\n)+(?=\S|\Z)", "\n\n", text)


def _facts(text):
    prose = _prose(text)
    return {
        "headings": [
            len(found) for found in re.findall(r"^(#+) ", prose, re.MULTILINE)
        ],
        "links": collections.Counter(re.findall(r"\]\(([^)\s]*)", prose)),
        "table rows": [
            line.count("|") - line.count("\\|")
            for line in prose.splitlines()
            if line.startswith("|")
        ],
    }


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_both_languages_have_the_same_parts(page):
    english = (DOCS / page).read_text(encoding="utf-8")
    chinese = TRANSLATIONS.chinese(DOCS / page).read_text(encoding="utf-8")
    assert _facts(chinese) == _facts(english)
    assert len(re.findall(r"[一-鿿]", chinese)) > 20  # it is Chinese


def _anchors(page):
    """Returns the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", _prose(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}


def test_the_chinese_readme_links_to_chinese_pages():
    text = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    links = re.findall(r"\[([^\]]*)\]\((docs/[^)#]*\.md)#?([^)]*)\)", text)
    assert len(links) > 20
    for shown, target, anchor in links:
        page = ROOT / target
        assert page.is_file(), target
        assert not TRANSLATIONS.chinese(page).is_file(), f"{target} is in English"
        assert shown == target or not shown.startswith("docs/"), (shown, target)
        assert not anchor or anchor in _anchors(page), (target, anchor)


def test_rates_and_the_lead_have_one_name_in_chinese():
    page = (DOCS / "evaluation.zh.md").read_text(encoding="utf-8")
    parts = ROOT / "fmalign_jax" / "run_report" / "report_page" / "words.json"
    words = json.loads(parts.read_text(encoding="utf-8"))["zh"]
    for key in ("fdr", "mdr"):
        name = words[key].partition(" ")[0]
        assert re.search(rf"\| `{key}` \|.*{name}", page), name
    title = re.match(r"# (\w+)", (DOCS / "lead.zh.md").read_text(encoding="utf-8"))
    assert words["axis_lead"].startswith(title[1])


def test_a_change_of_the_english_page_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n", encoding="utf-8")
    assert TRANSLATIONS.is_behind(page)
    (tmp_path / "page.zh.md").write_text("# 一\n", encoding="utf-8")
    assert TRANSLATIONS.is_behind(page)
    TRANSLATIONS.mark(page)
    assert not TRANSLATIONS.is_behind(page)
    page.write_text("# Two\n", encoding="utf-8")
    assert TRANSLATIONS.is_behind(page)
    TRANSLATIONS.mark(page)
    TRANSLATIONS.mark(page)
    text = (tmp_path / "page.zh.md").read_text(encoding="utf-8")
    assert text.startswith("# 一\n")
    assert text.count("translated from") == 1


needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="pip install -e '.[docs]'"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built with warnings as errors."""
    out = tmp_path_factory.mktemp("site") / "docs"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "build_docs.py", "--out", out],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@needs_mkdocs
def test_the_site_has_every_page_in_both_languages(site):
    for page in PAGES:
        path = page.with_suffix(".html")
        assert 'lang="en"' in (site / path).read_text(encoding="utf-8")
        assert 'lang="zh"' in (site / "zh" / path).read_text(encoding="utf-8")


@needs_mkdocs
def test_the_site_asks_nothing_of_the_internet(site):
    loads = re.compile(
        r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"?(https?:)?//[^>]*>"
    )
    for page in site.rglob("*.html"):
        found = loads.search(page.read_text(encoding="utf-8"))
        assert found is None, (page, found and found[0])
    for sheet in site.rglob("*.css"):
        assert "@import" not in sheet.read_text(encoding="utf-8")


@needs_mkdocs
def test_the_site_is_searched_in_both_languages(site):
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert {"en", "zh"} <= set(index["config"]["lang"])
    words = " ".join(entry["text"] + entry["title"] for entry in index["docs"])
    assert "perplexity" in words
    assert "困惑度" in words.replace("\u200b", "")


@needs_mkdocs
def test_a_link_with_an_anchor_works_in_chinese(site):
    page = (site / "zh" / "recordings.html").read_text(encoding="utf-8")
    assert 'id="a-first-config-for-a-folder"' in page
    assert '<span id="a-first-config-for-a-folder"' not in page


def test_a_page_that_lacks_a_heading_is_refused(tmp_path):
    hooks = load_file(HOOKS) if importlib.util.find_spec("markdown") else None
    if hooks is None:
        pytest.skip("pip install -e '.[docs]'")
    (tmp_path / "page.md").write_text("# One\n\n## Two `x`\n", encoding="utf-8")

    class Page:
        class file:
            abs_src_path = str(tmp_path / "page.zh.md")

    found = hooks.on_page_markdown("# 一\n\n## 二\n\n文字\n", page=Page)
    assert found == "# 一 {#one}\n\n## 二 {#two-x}\n\n文字\n"
    with pytest.raises(ValueError, match="headings"):
        hooks.on_page_markdown("# 一\n", page=Page)


@needs_mkdocs
@pytest.mark.slow
@pytest.mark.parametrize(
    ("home", "word", "found"),
    [("index.html", "perplexity", "matching"), ("zh/index.html", "困惑度", "结果")],
)
def test_the_search_works_from_a_folder_without_a_server(
    site, browser, home, word, found
):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(120_000)  # milliseconds, on a busy machine
    said, asked = [], []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / home).as_uri())
    page.click("input.md-search__input")
    page.keyboard.type(word)
    # The theme reads the word when a key is let go, as the last of an input method is;
    # Chinese characters come here without any.
    page.keyboard.press("End")
    page.wait_for_selector(".md-search-result__item")
    assert found in page.inner_text(".md-search-result__meta")
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
