"""What a user installs: the wheel and the editable installation, in fresh environments, without downloads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pipeline", "extractors", "model", "datasets", "tools")
BUILD_FILES = ("setup.cfg", "pyproject.toml", "LICENSE", "README.md")

CHECK = """
import importlib.metadata, importlib.resources, pathlib, sys
import mesm.pipeline, mesm.datasets.annotations, mesm.model, mesm.pipeline.report.charts, mesm.tools
assert pathlib.Path(mesm.pipeline.__file__).resolve().is_relative_to(sys.argv[1]), mesm.pipeline.__file__
assert importlib.metadata.version("mesm-pipeline") == mesm.pipeline.__version__
assert "<svg" in mesm.pipeline.report.charts.sparkline("a", [(1, 1)])
configs = sorted(entry.name for entry in importlib.resources.files("mesm.pipeline.configs").iterdir())
print(" ".join(name for name in configs if name.endswith(".yaml")))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the sources, because building leaves files beside them."""
    copy = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILD_FILES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(target),
        str(source),
    )
    (path,) = target.glob("mesm_pipeline-*.whl")
    return path


def run(*command: str, cwd: Path | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def fresh_environment(folder: Path) -> Path:
    """Make an environment that sees this one's dependencies, but not its installation of the project."""
    venv.EnvBuilder(with_pip=False).create(folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = folder / "lib" / version / "site-packages"
    for name in dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))):
        for entry in Path(name).iterdir():
            ours = entry.name == "mesm" or "mesm_pipeline" in entry.name or entry.suffix == ".pth"
            if not ours and not (target / entry.name).exists():
                (target / entry.name).symlink_to(entry)
    return folder / "bin"


def install(programs: Path, *what: str) -> None:
    options = ("--no-deps", "--no-build-isolation", "--ignore-installed")
    run(sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", *options, *what)


def check_installation(programs: Path, code: Path, elsewhere: Path) -> None:
    names = run(str(programs / "python"), "-c", CHECK, str(code.resolve()), cwd=elsewhere).split()
    assert names == sorted(path.name for path in (ROOT / "pipeline/configs").glob("*.yaml"))
    assert "Usage" in run(str(programs / "mesm-pipeline"), "--help", cwd=elsewhere)


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"mesm/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yaml", ".j2", ".css"} or path.name == "py.typed"
    }
    assert expected <= held
    assert {name.split("/")[0] for name in held} == {
        "mesm",
        f"{'-'.join(wheel.name.split('-')[:2])}.dist-info",
    }


def test_the_wheel_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    programs = fresh_environment(tmp_path / "environment")
    install(programs, str(wheel))
    check_installation(programs, tmp_path / "environment", tmp_path)


def test_the_editable_installation_works_from_any_folder(source: Path, tmp_path: Path) -> None:
    programs = fresh_environment(tmp_path / "environment")
    install(programs, "--editable", str(source))
    check_installation(programs, source, tmp_path)
