"""Hooks of the documentation's build (`make docs`): pages from outside docs/, their links, the gallery.

Markdown files link to each other by their paths in the repository, so that the links work there. The site has the same
tree with ``docs/`` taken away; here each link is turned into the one between the pages. Links to source files, which
the site does not have, become the text of the link.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from os.path import normpath, relpath
from pathlib import Path
from posixpath import dirname

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from csrun.report.claims import Study
from csrun.report.figures import figures_in
from csrun.report.plot_cli import find_experiments
from csrun.report.published import tables
from csrun.report.tables import ROWS_FILE

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "results/README.md")
FIGURES: tuple[str, ...] = (
    "results/figures/*.png",
    "results/*/*/*.png",
    "results/*/*/*.csv",
    "results/*/*/manifest.json",
    "results/*/*/cells/*/*",
)
FIGURES += ("bench/results/*",)
GALLERY = "gallery.md"
KINDS = {
    "A box": "percentile_astronaut",
    "A list of boxes": "boxes_astronaut",
    "Landmarks": "landmarks_astronaut",
    "Text": "edit_ocr",
    "A mask": "segment_text",
    "The class of each pixel": "segment_mnist",
    "Images": "tv_mnist",
}
"""Kinds of outputs, and the published experiment whose panels show them."""
SETTINGS = "<!-- cs-run --help keys -->"

_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")
_LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and figures that lie outside docs/, and the gallery."""
    for path in (*PAGES, *(str(found.relative_to(ROOT)) for one in FIGURES for found in sorted(ROOT.glob(one)))):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, GALLERY, content=gallery()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with the links of the site and, where it asks for them, the settings of cs-run."""
    if SETTINGS in markdown:
        command = [str(Path(sys.executable).with_name("cs-run")), "--help", "keys"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        markdown = markdown.replace(SETTINGS, f"```text\n{text}```")
    source = page.file.src_uri
    in_repository = source if source in (*PAGES, GALLERY) else f"docs/{source}"
    return _LINK.sub(lambda link: _of_site(link, in_repository, source, files), markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that would load anything from elsewhere."""
    for path in Path(config.site_dir).rglob("*.html"):
        if loaded := _LOADED.search(path.read_text("utf-8")):
            raise PluginError(f"{path}: the page loads {loaded[0]}; keep the site free of other hosts")


def gallery() -> str:
    """A picture of each kind of output, the paper's figures, every published experiment with how it was made."""
    studies, drawn = (
        [Study.read(folder) for folder in find_experiments([ROOT / "results"])],
        figures_in(ROOT / "results"),
    )
    sections = [
        "# Gallery\n\nReal outputs of real models, then every published figure, with the command it was made by. "
        "Results of an older method have the settings of that time. [Beside the paper](results/README.md) has the "
        "numbers as tables.\n\n## Real outputs of real models\n",
        *(_kind(kind, study) for kind, name in KINDS.items() for study in studies if study.name == name),
        "# Every published figure\n",
    ]
    sections += ["## The paper's figures\n", *(f"![{path.stem}]({path.relative_to(ROOT)})\n" for path in drawn)]
    for study in studies:
        at = study.folder.relative_to(ROOT)
        pictures = sorted(path.name for path in study.folder.glob("*.png"))
        sections += [
            f"## {study.name}\n\n{study.manifest['title']}: {', '.join(study.conditions)}.\n",
            *(f"![{study.name}: {name.removesuffix('.png')}]({at}/{name})\n" for name in pictures),
            f"```\n{study.manifest['command']}\n```\n",
            f"[Medians]({at}/summary.csv), [manifest]({at}/manifest.json); rows by cell: {_rows(study)}.\n",
        ]
    return "\n".join(sections)


def _kind(kind: str, study: Study) -> str:
    """The panels of a kind of output, each with its caption."""
    at = study.folder.relative_to(ROOT)
    shown = [
        f"![{kind}: {panel['model']}]({at}/{panel['file']})\n\n{panel['caption']}\n"
        for panel in study.manifest["panels"]
    ]
    return "\n".join([f"### {kind}\n\n[{study.manifest['title']}](#{study.name})\n", *shown])


def _rows(study: Study) -> str:
    """A link to the rows of each cell."""
    paths = [path.relative_to(ROOT) for path in tables(study.folder, ROWS_FILE)]
    return ", ".join(f"[{path.parent.name}]({path})" for path in paths)


def _of_site(link: re.Match[str], in_repository: str, source: str, files: Files) -> str:
    """A link between files of the repository as the link between their pages."""
    text, target, anchor = link[1], link[2], link[3] or ""
    path = normpath(f"{dirname(in_repository)}/{target}").lstrip("/")
    if (ROOT / path / "manifest.json").is_file():
        name = json.loads((ROOT / path / "manifest.json").read_text())["experiment"]
        page, anchor = GALLERY, f"#{name}"
    else:
        page = path.removeprefix("docs/")
    if files.get_file_from_path(page) is None and (ROOT / path).exists():
        return text
    return f"[{text}]({relpath(page, dirname(source) or '.')}{anchor})"
