"""The attack suite as a user without any rights.

Run it with ``pytest -m slow tests/slow/test_sandbox_unprivileged.py``; it takes some minutes. Root
copies the package and its tests to a folder that everybody can read, makes the interpreter
readable in a mount namespace of its own (a home may be 0700), and runs the suite there as nobody.
Who is not root runs ``tests/sandbox`` itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in (ROOT / "tests" / "sandbox").glob("test_attacks_*.py"))
NOBODY = "65534"
RUN = """
import os, subprocess, sys
folder, nobody, file, *needed = sys.argv[1:]

def call(*words):
    subprocess.run(words, check=True)

def closed(path):
    'The uppermost folder on the way to a path that others may not enter, or nothing.'
    for part in [*reversed(path.parents), path]:
        if not part.stat().st_mode & 1:
            return part

from pathlib import Path
call("mount", "--make-rprivate", "/")
stash = Path(folder, "stash")
for number, name in enumerate(needed):
    kept = stash / str(number)
    kept.mkdir(parents=True)
    call("mount", "--bind", name, str(kept))
for number, name in enumerate(needed):
    wall = closed(Path(name)) if Path(name).exists() else None
    if wall is not None:
        call("mount", "-t", "tmpfs", "-o", "mode=755", "none", str(wall))
    Path(name).mkdir(parents=True, exist_ok=True)
    call("mount", "--bind", str(stash / str(number)), name)
os.chdir(Path(folder, "work"))
os.execvp("setpriv", ["setpriv", "--reuid", nobody, "--regid", nobody, "--clear-groups",
                      "--inh-caps=-all", "--no-new-privs", sys.executable, "-m", "pytest", "-q",
                      "-p", "no:cacheprovider", "--rootdir", ".", "tests/sandbox/" + file])
"""


def _can_become_nobody() -> bool:
    command = ["unshare", "-m", "setpriv", "--reuid", NOBODY, "--clear-groups", "true"]
    found = all(shutil.which(command[at]) for at in (0, 2))
    return found and subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _can_become_nobody(), reason="platform: only root can become nobody")
@pytest.mark.parametrize("file", FILES)
def test_attacks_fail_for_an_unprivileged_user(file: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pvrl-nobody-"))  # others may not enter pytest's own
    work, home = folder / "work", folder / "home"
    try:
        for part in ("src", "tests", "configs"):
            shutil.copytree(
                ROOT / part, work / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, work / name)
        home.mkdir()
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
        for path in (home, work):
            shutil.chown(path, int(NOBODY), int(NOBODY))
        packages = str(Path(pytest.__file__).parent.parent)
        needed = sorted({sys.base_prefix, sys.prefix, packages}, key=len)
        ran = subprocess.run(
            ["unshare", "-m", sys.executable, "-c", RUN, folder, NOBODY, file, *needed],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "XDG_CACHE_HOME": str(home / "cache"),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert ran.returncode == 0, ran.stdout[-6000:]
