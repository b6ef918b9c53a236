"""The documentation's site: links between pages that lie elsewhere in the repository, and nothing from other hosts."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def hooks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module("site_hooks")


@pytest.fixture(scope="module")
def gallery(hooks):
    return hooks.gallery()


@pytest.mark.parametrize(
    ("source", "link", "of_site"),
    [
        ("README.md", "[a](docs/library.md#how-many-draws)", "[a](library.md#how-many-draws)"),
        ("library.md", "[a](../README.md)", "[a](README.md)"),
        ("extending/noise.md", "[a](../which-certifier.md)", "[a](../which-certifier.md)"),
        ("extending/certifier.md", "[a](../../CONTRIBUTING.md)", "[a](../CONTRIBUTING.md)"),
        ("results/README.md", "[`a`](tv_digits/cpu-cpu)", "[`a`](../gallery.md#tv_digits)"),
        ("which-certifier.md", "![a](../results/digits_h/cpu-cpu/a.png)", "![a](results/digits_h/cpu-cpu/a.png)"),
        ("library.md", "[a](../examples/mean.py)", "a"),
        (
            "library.md",
            "[a](https://arxiv.org/abs/2102.09701) [b](#here)",
            "[a](https://arxiv.org/abs/2102.09701) [b](#here)",
        ),
    ],
)
def test_a_link_of_the_repository_becomes_one_of_the_site(hooks, source, link, of_site):
    pages = {"library.md", "README.md", "which-certifier.md", "CONTRIBUTING.md", "gallery.md"}
    there = SimpleNamespace(get_file_from_path=lambda path: path if path in pages else None)
    page = SimpleNamespace(file=SimpleNamespace(src_uri=source))
    assert hooks.on_page_markdown(link, page, None, there) == of_site


def test_the_gallery_shows_every_published_figure(gallery):
    figures = [str(path.relative_to(ROOT)) for path in ROOT.glob("results/*/*/*.png")]
    assert len(figures) > 10
    figures += [f"results/figures/figure{number}.png" for number in range(3, 9)]
    assert [figure for figure in figures if f"]({figure})" not in gallery] == []


def test_the_gallery_begins_with_a_picture_of_each_kind_of_output(hooks, gallery):
    """With the caption that says what its certificate promises."""
    first, _, others = gallery.partition("\n# Every published figure\n")
    for kind, name in hooks.KINDS.items():
        shown = first[first.index(f"### {kind}\n") :].partition("\n### ")[0]
        assert f"](results/{name}/" in shown
        assert f"](#{name})" in shown
        assert f"## {name}\n" in others
        assert "within eps =" in shown


@pytest.mark.parametrize(
    "loaded",
    [
        '<script src="https://example.org/a.js">',
        '<link rel="stylesheet" href="//example.org/a.css">',
        "<img alt=a src=http://example.org/a.png>",
    ],
)
def test_what_another_host_would_have_to_serve_is_refused(hooks, tmp_path, loaded):
    from mkdocs.exceptions import PluginError

    page = tmp_path / "index.html"
    page.write_text('<script src="a.js"></script><a href="https://arxiv.org">a</a>')
    hooks.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))
    page.write_text(loaded)
    with pytest.raises(PluginError, match="other hosts"):
        hooks.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))
