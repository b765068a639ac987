"""The model, the optimizer's groups and the environment of a process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from sovereign.plan import ModelShape, plan
from sovereign.profile import load_profile
from sovereign.resources import data_path

PROFILES = data_path("templates") / "profiles"
DEMO = plan(load_profile(PROFILES / "demo.yaml"))


def make_shape(*, tied: bool) -> ModelShape:
    """The demonstration's shape with one layer and a small vocabulary."""
    return DEMO.model.model_copy(update={"num_layers": 1, "vocab_size": 64, "tied": tied})


@pytest.mark.parametrize("tied", [True, False])
def test_norms_and_embeddings_do_not_decay(tied: bool) -> None:
    """An output matrix of its own decays as other matrices do; one that is the embedding does not."""
    from training.model import make_model, parameter_groups

    shape = make_shape(tied=tied)
    model = make_model(shape, 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, others = ([names[id(p)] for p in group["params"]] for group in parameter_groups(model, DEMO.recipe))
    assert len(decayed) == (7 if tied else 8)
    assert all(name.endswith("proj.weight") or name == "lm_head.weight" for name in decayed)
    assert sorted(others) == sorted(set(names.values()) - set(decayed))
    assert "model.embed_tokens.weight" in others
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.num_parameters


def test_weights_begin_as_the_recipe_says() -> None:
    from training.model import make_model

    shape = DEMO.model.model_copy(update={"num_layers": 8, "tied": False})
    plain, scaled = (dict(make_model(shape, 1, depth_scaled=deep).named_parameters()) for deep in (False, True))
    for name, weight in plain.items():
        if weight.dim() == 1:
            assert (weight == 1).all(), name
            continue
        assert weight.std().item() == pytest.approx(0.02, rel=0.03), name
        expected = weight / 4 if name.endswith(("o_proj.weight", "down_proj.weight")) else weight
        assert torch.equal(scaled[name], expected), name


def test_small_models_begin_plain_and_deep_ones_scaled() -> None:
    deep = {name: plan(load_profile(PROFILES / f"{name}.yaml")).recipe.depth_scaled_init for name in ("demo", "site")}
    assert deep == {"demo": False, "site": True}


def in_process(code: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code with this environment and nothing else."""
    keep = {name: os.environ[name] for name in ("PATH",)}
    prelude = f"from pathlib import Path\nfrom training import environment\nworkdir = Path({str(tmp_path)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + code],
        env=keep | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_name_and_home_gets_both() -> None:
    code = (
        "import os, getpass\n"
        "os.setuid(65532)\n"
        "environment.prepare(workdir, threads=2, world_size=1)\n"
        "assert Path(os.environ['HOME']).is_relative_to(workdir) and os.access(os.environ['HOME'], os.W_OK)\n"
        "environment.set_rendezvous()\n"
        "print(getpass.getuser(), os.environ['WORLD_SIZE'], os.environ['OMP_NUM_THREADS'])\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        os.chown(folder, 65532, 65532)
        done = in_process(code, Path(folder), HOME="/nonexistent")
    assert (done.stdout, done.stderr) == ("sovereign 1 2\n", "")


def test_half_of_the_rendezvous_variables_is_an_error(tmp_path: Path) -> None:
    done = in_process("environment.prepare(workdir, threads=1, world_size=1)", tmp_path, RANK="0", WORLD_SIZE="1")
    assert "rendezvous variables are incomplete" in done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the call is glibc's own")
def test_freed_memory_is_kept_for_the_next_step(tmp_path: Path) -> None:
    code = (
        "import ctypes, resource\n"
        "environment.prepare(workdir, threads=1, world_size=1)\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype, size = ctypes.c_void_p, 64 * 2**20\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))\n"
        "    ctypes.memset(block, 1, size)\n"
        "    libc.free(block)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults() > 1000, faults() < 100)\n"
    )
    done = in_process(code, tmp_path)
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_the_interface_to_rank_0_is_found(tmp_path: Path) -> None:
    """Gloo would look for this machine's name, which does not always resolve."""
    code = "import os\nenvironment.set_rendezvous()\nprint(os.environ['GLOO_SOCKET_IFNAME'])"
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = in_process(code, tmp_path, **ranks)
    assert (done.stdout, done.stderr) == ("lo\n", "")
