"""Which code and environment made a result: the same digest however the kit is installed (row sec19)."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sovereign.identity import code_digest, code_version, environment_digest, identity
from sovereign.lake.stages import corpus
from sovereign.profile import parse_profile
from sovereign.stages import run_stage
from sovereign.store import FolderStore
from tests.sovereign.test_runtime import ROOT, environment_of_this_python
from tools import setup

SHOWN = "import json; from sovereign.identity import identity; print(json.dumps(identity()))"


def identity_in(folder: Path, cwd: Path) -> dict[str, str]:
    """What a process says that imports the kit from `folder`."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); {SHOWN}"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of its own, with files beside the sources that are none."""
    folder = tmp_path_factory.mktemp("a checkout")
    for name, content in setup.read_sources(ROOT).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "sovereign" / "__pycache__").mkdir()
    (folder / "sovereign" / "__pycache__" / "x.pyc").write_bytes(b"derived")
    (folder / "sovereign" / ".site.py.swp").write_bytes(b"an editor's")
    return folder


def test_sec19_checkout_and_wheel_have_the_same_digests(checkout: Path, tmp_path: Path) -> None:
    sources = setup.read_sources(ROOT)
    (tmp_path / "build").mkdir()
    with zipfile.ZipFile(setup.build_wheel(tmp_path / "build", environment_of_this_python(), sources)) as wheel:
        wheel.extractall(tmp_path / "installed")
    assert (tmp_path / "installed/sovereign/_data/templates").is_dir()
    from_checkout, from_wheel = identity_in(checkout, tmp_path), identity_in(tmp_path / "installed", tmp_path)
    assert from_checkout == from_wheel
    if Path(sys.prefix, "runtime.json").exists():
        runtime = subprocess.run(
            [sys.executable, "-c", SHOWN], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert json.loads(runtime.stdout)["environment_digest"] == from_checkout["environment_digest"]


@pytest.mark.parametrize("changed", ["sovereign/lake/pii.py", "training/loss.py", "templates/training/job.yaml.j2"])
def test_sec19_any_source_changes_the_digest(checkout: Path, tmp_path: Path, changed: str) -> None:
    before = identity_in(checkout, tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    assert identity_in(copy, tmp_path) == before
    (copy / changed).write_bytes((copy / changed).read_bytes() + b"\n")
    after = identity_in(copy, tmp_path)
    assert after["code_digest"] != before["code_digest"]
    assert after["environment_digest"] == before["environment_digest"]


def test_sec19_another_package_changes_the_environment(checkout: Path, tmp_path: Path) -> None:
    before = identity_in(checkout, tmp_path)
    other = tmp_path / "site" / "other_package-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: Other.Package\nVersion: 1.0\n")
    code = f"import sys; sys.path[:0] = [{str(checkout)!r}, {str(tmp_path / 'site')!r}]; {SHOWN}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    after = json.loads(done.stdout)
    assert after["environment"]["package other-package"] == "1.0"
    assert after["environment_digest"] != before["environment_digest"]
    assert after["code_digest"] == before["code_digest"]


def test_sec19_receipts_name_code_and_environment(tmp_path: Path) -> None:
    text = """
    apiVersion: sovereign/v1
    name: tiny
    corpus: {demonstration: {facts: 10}}
    model: {parameters: 4.0e+5, vocab_size: 1024}
    training: {tokens: 1.0e+5}
    """
    store = FolderStore(tmp_path / "store")
    receipt = run_stage(corpus, parse_profile(text), store, tmp_path / "work", io.StringIO())
    assert (receipt.code_digest, receipt.environment_digest) == (code_digest(), environment_digest())
    assert (
        receipt.code_version
        == code_version()
        == (f"{identity()['version']}+code.{code_digest()[:12]}.env.{environment_digest()[:12]}")
    )
    predicate = json.loads(store.get_bytes("raw/tiny/receipt.json"))["predicate"]
    assert predicate["code_digest"] == code_digest() and len(code_digest()) == 64
