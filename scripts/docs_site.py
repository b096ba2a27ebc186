"""Hook of mkdocs: files of the repository outside of docs/ that a page links to become part of the site.

Pages link as GitHub reads them (`../examples/own_reward.py`), and mkdocs knows only what lies in docs/. So
each file that is linked stands in the site under repository/, Markdown as a page, and links are rewritten to
that place. A link to what does not exist is left as it is; the strict build then refuses it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS, SITE = "docs", "repository"
LINK = re.compile(r"(\]\()([^)\s#:]+)")  # no address with a scheme, no bare anchor


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what the pages link to, and what those files link to in turn."""
    pending = [f"{DOCS}/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(pending)
    while pending:
        page = pending.pop()
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in {linked(page, match[2]) for match in LINK.finditer(text)}:
            if target in seen or target.startswith(f"{DOCS}/") or not (ROOT / target).is_file():
                continue
            seen.add(target)
            files.append(added(target, config))
            if target.endswith(".md"):
                pending.append(target)
    return files


def added(path: str, config: MkDocsConfig) -> File:
    """A file of the repository as one of the site: reachable by links, not listed in the navigation."""
    return File.generated(
        config,
        place(path),
        abs_src_path=str(ROOT / path),
        inclusion=InclusionLevel.NOT_IN_NAV,
    )


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri
    source = here.removeprefix(f"{SITE}/") if here.startswith(f"{SITE}/") else f"{DOCS}/{here}"

    def rewritten(match: re.Match[str]) -> str:
        target = place(linked(source, match[2]))
        if files.get_file_from_path(target) is None:
            return match[0]
        return match[1] + posixpath.relpath(target, posixpath.dirname(here) or ".")

    return LINK.sub(rewritten, markdown)


def linked(page: str, link: str) -> str:
    """The file that a page's link names, from the repository's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def place(path: str) -> str:
    """Where a file of the repository stands in the site."""
    return path.removeprefix(f"{DOCS}/") if path.startswith(f"{DOCS}/") else f"{SITE}/{path}"
