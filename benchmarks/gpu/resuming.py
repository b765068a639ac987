"""A run that is stopped and resumed by the kit's own checkpoints, against one that is not."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sovereign.plan import Plan
from sovereign.store import FolderStore

if TYPE_CHECKING:
    from training.checkpoint import Checkpoints
    from training.engine import Engine
    from training.environment import Ranks

_DIGEST = "0" * 64
_STEPS, _SAVED_AFTER = 4, 2


def _checkpoints(resolved: Plan, engine: Engine, ranks: Ranks, folder: Path) -> Checkpoints:
    from training.checkpoint import Checkpoints, Run
    from training.engine import gather
    from training.stored import Retention, StoredCheckpoints

    stored = StoredCheckpoints(FolderStore(folder / "store"), "checkpoints/", _DIGEST, ranks, Retention(2))
    run = Run(_DIGEST, resolved.recipe.zero_stage, engine.shapes, {})
    return Checkpoints(stored, folder / "disk", run, ranks, gather=gather, warn=print)


def compare(
    resolved: Plan, make: Callable[[], tuple[Engine, Ranks]], rows: npt.NDArray[np.int64], folder: Path
) -> dict[str, Any]:
    """Losses and weights of both, and the seconds of saving and loading."""
    import torch

    from training.fragments import FragmentReader

    folder.joinpath("metrics.jsonl").write_text("")
    engine, ranks = make()
    whole = []
    save_s = 0.0
    for number in range(_STEPS):
        if number == _SAVED_AFTER:
            checkpoints = _checkpoints(resolved, engine, ranks, folder)
            start = time.perf_counter()
            checkpoints.save(number, engine.state(), engine.spans(), folder / "metrics.jsonl", {"tokens": 0})
            save_s = time.perf_counter() - start
            checkpoints.close()
        whole.append(engine.step(number, rows[number]).loss)
    weights = engine.weights()
    del engine
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    engine, ranks = make()
    checkpoints = _checkpoints(resolved, engine, ranks, folder)
    start = time.perf_counter()
    found = checkpoints.newest(engine.spans())
    assert found is not None
    assert found.manifest.step == _SAVED_AFTER
    with FragmentReader(found.folder, found.spans) as reader:
        engine.load_state(reader, reader.random(found.files[0]))
    load_s = time.perf_counter() - start
    resumed = [engine.step(number, rows[number]).loss for number in range(_SAVED_AFTER, _STEPS)]
    checkpoints.close()
    same = {name: torch.equal(value, weights[name]) for name, value in engine.weights().items()}
    return {
        "parameters": resolved.num_parameters,
        "losses": whole,
        "losses_resumed": resumed,
        "is_bit_exact": all(same.values()) and resumed == whole[_SAVED_AFTER:],
        "different": [name for name, is_same in same.items() if not is_same][:5],
        "save_s": round(save_s, 3),
        "load_s": round(load_s, 3),
    }
