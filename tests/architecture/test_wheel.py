"""What people install: the wheel's contents, and the wheel in a fresh environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from sources import ROOT, SRC

from pyvision_rl import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel with the build backend that is installed; no download."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_package_its_configs_and_templates_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
        meta = next(n for n in archive.namelist() if n.endswith("METADATA"))
        described = archive.read(meta).decode()
    expected = {
        f"pyvision_rl/{p.relative_to(SRC).as_posix()}"
        for p in SRC.rglob("*")
        if p.is_file() and p.suffix != ".pyc"
    }
    expected |= {f"pyvision_rl/configs/{p.name}" for p in (ROOT / "configs").iterdir()}
    assert names == expected
    assert {"pyvision_rl/py.typed", "pyvision_rl/configs/tiny_image_rl.toml"} <= names
    assert any(n.startswith("pyvision_rl/templates/") for n in names)
    assert f"Version: {__version__}" in described
    assert "License-Expression: Apache-2.0" in described


def test_version_is_written_once():
    assert "version" in PROJECT["project"]["dynamic"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {__version__}" in changelog


def test_pins_name_versions_only_and_cover_what_we_ask_for():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, equals, version = line.partition("==")
            assert equals, f"{line!r} is no pin"
            assert "+" not in version, f"{line!r} names one build"
            pins[_normal(name)] = version
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [*PROJECT["project"]["dependencies"], *(r for extra in extras for r in extra)]
    for requirement in asked:
        name = _normal(requirement.split(">")[0].split("[")[0])
        assert name in pins or name == "pyvision-rl", f"{name} is not pinned"


def test_this_environment_is_the_pinned_one():
    from importlib import metadata

    wrong = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, equals, version = line.partition("==")
        try:
            found = metadata.version(name) if equals else version
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        if found.partition("+")[0] != version:
            wrong[name] = (found, version)
    assert not wrong, "installed, pinned"


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-")


@pytest.mark.slow
def test_fresh_install_works_away_from_the_checkout(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pvrl = tmp_path / "env" / "bin" / "pvrl"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*command: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    installed = set(run(python, "-m", "pip", "freeze").split())
    assert len(installed) < 40, sorted(installed)
    assert not [p for p in installed if p.startswith("torch")]
    assert run(pvrl, "--version") == f"pvrl {__version__}\n"
    for config in sorted((ROOT / "configs").glob("*.toml")):
        if config.stem.startswith("study_"):
            assert "units" in run(pvrl, "study", config.stem, "--dry-run")
            continue
        if config.stem.startswith("tiny_"):
            assert " 0 failed" in run(pvrl, "check", "config", config.stem)
        assert "would run" in run(pvrl, "rl", config.stem, "--dry-run")
    assert " 0 failed" in run(pvrl, "check", "sandbox", "tiny_image_rl")
    assert "pyvision-rl[train]" in run(pvrl, "rl", "tiny_image_rl", code=2)
    timed = (
        "import time as t; s = t.perf_counter(); import pyvision_rl; print(t.perf_counter() - s)"
    )
    assert min(float(run(python, "-c", timed)) for _ in range(3)) < 0.3
