"""The content-addressed runtime: what pods are given of the host, that it never changes, what its name depends on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sovereign.errors import ToolError
from sovereign.runtime import RUNTIME_FILE, read_runtime
from tools import setup

ROOT = Path(__file__).parents[2]


def environment_of_this_python() -> Path:
    """The third-party environment that these tests run from."""
    description = Path(sys.prefix, RUNTIME_FILE)
    return Path(json.loads(description.read_text())["env"]) if description.exists() else Path(sys.prefix)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything in `folder`."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runtime of this checkout, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("a cache") / "runtime" / "0123456789abcdef"
    python = setup.BasePython.current()
    setup.make_runtime(folder, environment_of_this_python(), python, setup.read_sources(ROOT))
    return folder


def described(folder: Path, prefix: Path, env: Path) -> Path:
    for path in (folder, prefix, env):
        path.mkdir(parents=True, exist_ok=True)
    description = {"digest": "d", "env": str(env), "python_prefix": str(prefix)}
    (folder / RUNTIME_FILE).write_text(json.dumps(description))
    return folder


def test_pods_get_four_folders_and_nothing_wider(tmp_path: Path) -> None:
    folder = described(tmp_path / "runtime" / "r", tmp_path / "python", tmp_path / "env" / "e")
    expected = {Path("/usr"), tmp_path / "runtime" / "r", tmp_path / "python", tmp_path / "env" / "e"}
    assert set(read_runtime(folder).binds) == expected


def test_folders_below_others_are_not_bound_twice(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "python")
    folder = described(tmp_path / "runtime", tmp_path / "python", tmp_path / "python" / "env")
    assert set(read_runtime(folder).binds) == {Path("/usr"), tmp_path / "runtime", tmp_path / "python"}
    folder = described(tmp_path / "runtime", tmp_path / "link", tmp_path / "link" / "env")
    assert set(read_runtime(folder).binds) == {Path("/usr"), tmp_path / "runtime", tmp_path / "python"}
    folder = described(tmp_path / "runtime", Path("/usr/lib"), tmp_path / "env")
    assert set(read_runtime(folder).binds) == {Path("/usr"), tmp_path / "runtime", tmp_path / "env"}


def test_other_environments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="not a runtime") as caught:
        read_runtime(tmp_path)
    assert "make setup" in str(caught.value)


def test_lost_folder_is_named(tmp_path: Path) -> None:
    folder = described(tmp_path / "runtime", tmp_path / "python", tmp_path / "env")
    (tmp_path / "env").rmdir()
    with pytest.raises(ToolError, match=f"{tmp_path / 'env'} is gone"):
        read_runtime(folder)


def test_runtime_works_from_anywhere_and_writes_nothing(runtime: Path) -> None:
    before = contents(runtime)
    code = (
        "import sovereign.resources, stacks, training, yaml; from sovereign.runtime import current_runtime;"
        "from importlib.metadata import entry_points;"
        "print(current_runtime().python, sovereign.resources.data_path('tools') / 'tools.toml',"
        "sorted(point.name for point in entry_points(group='sovereign.stages')), sep='\\n')"
    )
    bare = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    answer = subprocess.run(
        [runtime / "bin" / "python", "-c", code], cwd="/", env=bare, capture_output=True, text=True, check=True
    )
    python, registry, stages = answer.stdout.splitlines()
    assert python == str(runtime / "bin" / "python")
    assert Path(registry).is_relative_to(runtime) and Path(registry).exists()
    assert stages == "['corpus', 'curate', 'evaluate', 'preflight', 'register', 'tokenize', 'train']"
    version = subprocess.run([runtime / "bin" / "ruff", "--version"], cwd="/", env=bare, check=False)
    script = subprocess.run(
        [runtime / "bin" / "hatchling", "--help"], cwd="/", env=bare, capture_output=True, check=False
    )
    assert (version.returncode, script.returncode) == (0, 0)
    assert contents(runtime) == before, "bytecode was not compiled beforehand"


def test_every_user_can_read_the_runtime(runtime: Path) -> None:
    for path in (runtime, *runtime.rglob("*")):
        wanted = 0o555 if path.is_dir() or path.parent.name == "bin" else 0o444
        assert path.is_symlink() or path.stat().st_mode & wanted == wanted, path


def test_existing_runtime_is_never_changed(runtime: Path) -> None:
    before = contents(runtime)
    sources = setup.read_sources(ROOT) | {"sovereign/added.py": b"ADDED = True\n"}
    setup.make_runtime(runtime, environment_of_this_python(), setup.BasePython.current(), sources)
    assert contents(runtime) == before


def test_abandoned_runtime_is_cleared_away(runtime: Path) -> None:
    abandoned = runtime.parent / ".tmp-killed" / runtime.name
    abandoned.mkdir(parents=True)
    other = runtime.with_name("other")
    setup.make_runtime(other, environment_of_this_python(), setup.BasePython.current(), setup.read_sources(ROOT))
    assert sorted(path.name for path in runtime.parent.iterdir()) == sorted([runtime.name, "other"])


def test_name_follows_content_and_place_of_every_source(tmp_path: Path) -> None:
    for name in setup.SOURCE_FOLDERS:
        (tmp_path / name).mkdir()
    for name in (*setup.SOURCE_FILES, "sovereign/a.py", "templates/t.yaml.j2"):
        (tmp_path / name).write_text(name)

    def name_now() -> str:
        return setup.runtime_name("env", setup.read_sources(tmp_path))

    names = [name_now()]
    (tmp_path / "sovereign" / "__pycache__").mkdir()
    (tmp_path / "sovereign" / "__pycache__" / "a.cpython-311.pyc").write_text("derived")
    assert name_now() == names[0]
    (tmp_path / "templates" / "t.yaml.j2").write_text("changed")
    names.append(name_now())
    (tmp_path / "sovereign" / "a.py").rename(tmp_path / "sovereign" / "b.py")
    names.append(name_now())
    names.append(setup.runtime_name("other env", setup.read_sources(tmp_path)))
    assert len(set(names)) == 4


def test_failures_name_their_cause(tmp_path: Path) -> None:
    for message, cause in [("dns error: lookup", "no network"), ("No space left on device", "disk is full")]:
        with pytest.raises(ToolError, match=cause) as caught:
            setup.run([sys.executable, "-c", f"raise SystemExit({message!r})"], "installing")
        assert message in str(caught.value)
    with pytest.raises(ToolError, match="not enough disk space"):
        setup.need_space(tmp_path, 10**18)


@pytest.mark.skipif(not Path(sys.prefix, RUNTIME_FILE).exists(), reason="needs a set-up of this checkout: make test")
def test_second_set_up_does_nothing_quickly() -> None:
    command = ["bash", "-c", f"time -p {sys.executable} {ROOT / 'tools' / 'setup.py'}"]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ) for _ in range(3)]
    assert {run.stdout.strip() for run in runs} == {runs[0].stdout.strip()}
    assert min(float(run.stderr.split("real")[1].split()[0]) for run in runs) < 1.0


def test_command_line_starts_without_the_heavy_packages() -> None:
    code = (
        "import sys, sovereign.cli.app; print(sorted({'torch', 'pulumi', 'mlflow', 'kubernetes'} & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
