"""A run as one HTML file: page, scripts, data and images.

In: a run folder or a study, also one that is being written. Out: a file, or a refusal before it is
written. Its scripts are allowed by their hashes, so that no other can run whatever the data say.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

from pyvision_rl.errors import ConfigError
from pyvision_rl.media import data_url
from pyvision_rl.runs_files import TEMPORARY, writing
from pyvision_rl.view.export import Exported, Report, at_one_moment
from pyvision_rl.view.limits import ALL_STEPS, Steps
from pyvision_rl.view.scripts import script
from pyvision_rl.view.site import PAGE, Options, RunSite, StudySite, open_site, web_file

MAX_MB = 50
"""Of the file, unless another bound is asked for."""
DATA = "<!-- PVRL:DATA -->"
_EARLY = "window.PVRL = { given: {}, give(name, payload) { this.given[name] = payload; } };\n"
_STYLE = re.compile(r'^[ \t]*<link rel="stylesheet" href="([^":?#]+)"\s*/?>[ \t]*$', re.MULTILINE)
_SCRIPT = re.compile(
    r'^[ \t]*<script(?: defer)? src="([^":?#]+)"(?: defer)?></script>[ \t]*$', re.MULTILINE
)
_POLICY = re.compile(r'(<meta http-equiv="Content-Security-Policy" content=")([^"]*)(">)')


def export_file(
    run: Path,
    file: Path,
    *,
    limits: Steps = ALL_STEPS,
    tokens: bool = True,
    against: Path | None = None,
    max_mb: float = MAX_MB,
    report: Report = lambda _: None,
) -> Exported:
    """Write the page of a run or a study, with all it needs, as one file.

    Args:
        run: The run folder or study folder; of a study, without the pages of its runs.
        file: Must not exist.
        limits: The steps to show.
        tokens: Whether token ids and log-probabilities are in it.
        against: Another run, whose grades stand beside this one's.
        max_mb: The bound, in millions of bytes.
        report: Receives lines on the progress.

    Raises:
        ConfigError: The file is there already, or would be larger than the bound.
        RunError: ``run`` is none, is written anew again and again, or the disk refuses.
    """
    if file.exists():
        raise ConfigError(f"--single-file {file} is there already; name another")
    site = open_site(run, Options(limits=limits, tokens=tokens, alone=True, against=against))
    if isinstance(site, RunSite):
        page = at_one_moment(site, lambda _: _page(site, file, max_mb), report)
    else:
        page = _page(site, file, max_mb)
    partial = file.with_name(file.name + TEMPORARY)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(file)
    images = len(site.images()) if isinstance(site, RunSite) else 0
    rows = sum(len(s.rows) for s in site.refresh().steps) if isinstance(site, RunSite) else 0
    return Exported(file, rows, images, file.stat().st_size)


def _page(site: RunSite | StudySite, file: Path, max_mb: float) -> str:
    budget = _Budget(round(max_mb * 1e6), file)
    data = [_EARLY, *_data(site, budget)]
    page = _assembled(data)
    budget.add(len(page) - sum(map(len, data)))
    return page


class _Budget:
    """Counts bytes, and refuses the one too many."""

    def __init__(self, most: int, file: Path) -> None:
        self._most, self._file, self._used = most, file, 0

    def add(self, size: int, what: str = "it") -> None:
        self._used += size
        if self._used > self._most:
            raise ConfigError(
                f"--single-file {self._file} would be larger than {self._most / 1e6:g} MB "
                f"(reached with {what}): show fewer steps with --limit-steps, leave out the tokens "
                "with --no-tokens, write a folder with --export, or allow more with --max-mb"
            )


def _data(site: RunSite | StudySite, budget: _Budget) -> list[str]:
    """Return the scripts that give all data; images first, whose size is known beforehand."""
    pieces: list[str] = []
    if isinstance(site, RunSite):
        digests = site.images()
        size = sum(site.image_file(d).stat().st_size * 4 // 3 + 100 for d in digests)
        budget.add(size, f"{len(digests)} images")
        urls = {digest: data_url(site.image_file(digest).read_bytes()) for digest in digests}
        pieces.append(script("media", urls).decode("ascii"))
    else:
        pieces.append(script("media", {}).decode("ascii"))
    for name in site.names():
        if not name.startswith("data/"):
            continue
        found = site.get(name, {})
        if found is not None:
            assert isinstance(found.body, bytes)
            budget.add(len(found.body), name)
            pieces.append(found.body.decode("ascii"))
    return pieces


def _assembled(data: list[str]) -> str:
    """Return the page with its styles, its scripts and the data inside."""
    page = _text(PAGE)
    styles: list[str] = []
    scripts: list[str] = []

    def style(found: re.Match[str]) -> str:
        styles.append(_inside(_text(found[1]), "style"))
        return f"<style>{styles[-1]}</style>"

    def inline(found: re.Match[str]) -> str:
        scripts.append(_inside(_text(found[1]), "script"))
        return f"<script>{scripts[-1]}</script>"

    page = _SCRIPT.sub(inline, _STYLE.sub(style, page))
    given = "".join(f"<script>{piece}</script>\n" for piece in data)
    page = page.replace(DATA, given, 1)
    policy = _policy([*data, *scripts], styles)
    return _POLICY.sub(lambda found: found[1] + html.escape(policy, quote=True) + found[3], page, 1)


def _text(name: str) -> str:
    found = web_file(name)
    if found is None:
        return ""
    assert isinstance(found.body, bytes)
    return found.body.decode("utf-8").replace("\r\n", "\n")


def _inside(text: str, element: str) -> str:
    """Return text of ours that cannot end the element it stands in."""
    return re.sub(f"</(?={element})", r"<\\/", text, flags=re.IGNORECASE)


def _policy(scripts: list[str], styles: list[str]) -> str:
    """Return a policy that allows these scripts and styles, images in data URLs, and no more."""
    return (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; "
        "img-src data:; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types pvrl"
    )


def _hashes(texts: list[str]) -> str:
    digests = [hashlib.sha256(text.encode("utf-8")).digest() for text in texts]
    told = dict.fromkeys(f"'sha256-{base64.b64encode(d).decode('ascii')}'" for d in digests)
    return " ".join(told) or "'none'"
