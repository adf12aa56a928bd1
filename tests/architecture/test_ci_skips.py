"""Under CI nothing that can be installed is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from sources import ROOT

TESTS = """
import pytest

def test_installable():
    pytest.skip("no pyarrow")

@pytest.mark.skipif(True, reason="gpu: none here")
def test_gpu():
    pass

@pytest.mark.xfail(reason="known")
def test_known():
    assert False

def test_fine():
    pass
"""


@pytest.mark.parametrize(
    ("ci", "words"),
    [
        ("", ("1 passed", "3 skipped", "1 xfailed")),
        ("true", ("1 failed", "1 passed", "1 skipped", "1 xfailed", "1 error")),
    ],
)
def test_ci_fails_on_a_skip_that_could_be_installed(tmp_path, ci, words):
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(
        "import pytest\npytest.importorskip('no_such_package')\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "--continue-on-collection-errors", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "CI": ci},
    )
    for word in words:
        assert word in done.stdout, done.stdout
    assert done.returncode == (1 if ci else 0)
    if ci:
        assert "skipped under CI: no pyarrow" in done.stdout
