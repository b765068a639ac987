"""Stage `train` as users run it: killed, stopped, gone on with, and on two ranks."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sovereign.receipts import Receipt
from sovereign.store import open_store
from tests.training.conftest import PROFILE, Start, events
from training.forked import run_rank
from training.ledger import consumed, open_run
from training.order import TokenStream
from training.shards import Shard

TIMEOUT_S = 240
TRAIN = "models/tiny/train"


def run(start: Start, profile: Path, root: Path, work: Path, **environment: str) -> int | None:
    """Train to the end; the exit code."""
    process = start(profile, root, work, work.with_suffix(".log"), **environment)
    process.join(TIMEOUT_S)
    return process.exitcode


def losses(root: Path) -> list[float]:
    """Loss of every step."""
    lines = map(json.loads, (root / TRAIN / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def receipt(root: Path) -> Receipt:
    """Receipt of the training."""
    return Receipt.from_bytes((root / TRAIN / "receipt.json").read_bytes())


def free_port() -> str:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def whole_run(
    start_training: Start, profile_file: Path, tokens: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The store after a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    root = Path(shutil.copytree(tokens, folder / "store"))
    assert run(start_training, profile_file, root, folder / "work") == 0, events(folder / "work.log")
    return root


def test_a_run_leaves_a_model_that_transformers_loads(whole_run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = whole_run / TRAIN / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert tokenizer.decode(tokenizer("Q: 42 ?\nA:")["input_ids"]) == "Q: 42 ?\nA:"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 0
    metrics = receipt(whole_run).metrics
    assert metrics["loss_last"] < metrics["loss_first"]
    assert metrics["heldout_bits_per_byte_after"] < metrics["heldout_bits_per_byte_before"]
    assert metrics["resumed_from"] is None and metrics["parameters"] == model.num_parameters()
    config = json.loads((whole_run / TRAIN / "deepspeed.json").read_text())
    assert (config["zero_optimization"]["stage"], config["gradient_clipping"]) == (0, 0.0), (
        "at stage 0 the engine clips"
    )


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_resume_is_bit_identical(
    ending: signal.Signals, start_training: Start, profile_file: Path, store_root: Path, whole_run: Path, tmp_path: Path
) -> None:
    """The pod's disk is lost: the second process has an empty work folder."""
    log = tmp_path / "first.log"
    process = start_training(profile_file, store_root, tmp_path / "first", log)
    committed = f"models/tiny/train/checkpoints/*/step-{'*' if ending == signal.SIGTERM else '00000004'}/COMMIT"
    if ending == signal.SIGKILL:
        wait_until(lambda: any(store_root.glob(committed)) or process.exitcode is not None)
    else:
        wait_until(lambda: any(event["message"] == "making the model" for event in events(log)))
    os.kill(int(process.pid or 0), ending)
    process.join(TIMEOUT_S)
    assert process.exitcode == (143 if ending == signal.SIGTERM else -signal.SIGKILL), events(log)
    assert any(store_root.glob(committed))
    assert not (store_root / TRAIN / "receipt.json").exists()
    (config,) = store_root.glob("models/tiny/runs/*/deepspeed-*.json")
    assert config.name == "deepspeed-00000000.json"
    assert config.read_bytes() == (whole_run / TRAIN / "deepspeed.json").read_bytes()
    assert run(start_training, profile_file, store_root, tmp_path / "second") == 0, events(tmp_path / "second.log")
    assert receipt(store_root).metrics["resumed_from"] > 0
    assert losses(store_root) == losses(whole_run)
    resumed, whole = ((root / TRAIN / "model" / "model.safetensors").read_bytes() for root in (store_root, whole_run))
    assert resumed == whole


def test_another_configuration_starts_afresh(
    start_training: Start, profile_file: Path, store_root: Path, whole_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole_run / TRAIN / "checkpoints", store_root / TRAIN / "checkpoints")
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps(PROFILE | {"training": PROFILE["training"] | {"tokens": 2 * 256}}))  # type: ignore[operator]
    assert run(start_training, other, store_root, tmp_path / "work") == 0, events(tmp_path / "work.log")
    assert receipt(store_root).metrics["resumed_from"] is None
    assert len(losses(store_root)) == 2
    commits = list((store_root / TRAIN / "checkpoints").glob("*/*/COMMIT"))
    assert [path.parent.name for path in commits] == ["step-00000002"], "checkpoints of the old run are left"


def test_a_run_that_fails_in_its_export_is_told_and_goes_on(
    start_training: Start, profile_file: Path, store_root: Path, whole_run: Path, tmp_path: Path
) -> None:
    """A file is in the way of the model's folder; until the model is there, the older run's checkpoints stay."""
    shutil.copytree(whole_run / TRAIN / "checkpoints", store_root / TRAIN / "checkpoints")
    older = set(store_root.glob(f"{TRAIN}/checkpoints/*/step-*/*"))
    other, work = tmp_path / "other.yaml", tmp_path / "work"
    other.write_text(json.dumps(PROFILE | {"training": PROFILE["training"] | {"tokens": 2 * 256}}))  # type: ignore[operator]
    work.mkdir()
    (work / "export").write_text("in the way")
    assert run(start_training, other, store_root, work) == 1
    record = next(store_root.glob("models/tiny/runs/*/run.json"))
    assert (json.loads(record.read_text())["status"], json.loads(record.read_text())["step"]) == ("FAILED", 2)
    assert older < set(store_root.glob(f"{TRAIN}/checkpoints/*/step-*/*"))
    (work / "export").unlink()
    assert run(start_training, other, store_root, work) == 0, events(tmp_path / "work.log")
    finished = json.loads(record.read_text())
    assert finished["status"] == "FINISHED" and finished["summary"] == receipt(store_root).metrics
    assert receipt(store_root).metrics["resumed_from"] == 2
    assert not older & set(store_root.glob(f"{TRAIN}/checkpoints/*/step-*/*"))


def test_phases_and_losses_go_on_after_a_kill(
    start_training: Start, store_root: Path, tokens: Path, tmp_path: Path
) -> None:
    """Another mix, sequence length and rate in each phase, documents apart, z-loss, goldfish loss: bit-identical."""
    phases = [
        {
            "tokens": 6 * 256,
            "learning_rate": {"start": 0, "end": 1},
            "sequence_length": 32,
            "mix": {"en": 1, "fr": 3},
        },
        {"tokens": 6 * 256, "learning_rate": {"start": 1, "end": 0, "shape": "sqrt"}},
    ]
    losses_too = {"z_loss": 1e-3, "document_masking": True, "goldfish": {"k": 4, "h": 8}, "phases": phases}
    profile = tmp_path / "phases.yaml"
    profile.write_text(json.dumps(PROFILE | {"training": PROFILE["training"] | losses_too}))  # type: ignore[operator]
    whole = Path(shutil.copytree(tokens, tmp_path / "whole-store"))
    assert run(start_training, profile, whole, tmp_path / "whole") == 0, events(tmp_path / "whole.log")
    process = start_training(profile, store_root, tmp_path / "first", tmp_path / "first.log")
    wait_until(lambda: any(store_root.glob(f"{TRAIN}/checkpoints/*/*/COMMIT")) or process.exitcode is not None)
    os.kill(int(process.pid or 0), signal.SIGKILL)
    process.join(TIMEOUT_S)
    assert run(start_training, profile, store_root, tmp_path / "second") == 0, events(tmp_path / "second.log")
    assert receipt(store_root).metrics["resumed_from"] > 0
    resumed, undisturbed = ((root / TRAIN / "model" / "model.safetensors").read_bytes() for root in (store_root, whole))
    assert resumed == undisturbed
    lines = [json.loads(line) for line in (store_root / TRAIN / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert losses(store_root) == losses(whole)
    assert all(0 < line["z_loss"] < line["loss"] for line in steps)
    rates = [line["learning_rate"] / 4e-3 for line in steps]
    assert rates[:6] == pytest.approx([n / 6 for n in range(1, 7)])
    assert rates[6:] == pytest.approx([1 - (n / 6) ** 0.5 for n in range(6)])
    ledger, stream = open_run(open_store(f"file://{whole}"), "tiny", tmp_path / "shards")
    first, second = (consumed(stream, 256, from_step=step, up_to_step=step + 6).by_language for step in (0, 6))
    assert set(+first) == {"en", "fr"} and first["fr"] == pytest.approx(3 * first["en"], rel=0.2)
    assert set(+second) == {"ar", "en", "fr", "zh"}
    assert first + second == ledger["by_language"]


def test_two_ranks_give_nearly_the_same_as_one(
    start_training: Start, store_root: Path, whole_run: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "two.yaml"
    profile.write_text(json.dumps(PROFILE | {"training": PROFILE["training"] | {"pods": 2}}))  # type: ignore[operator]
    port = free_port()
    processes = []
    for rank in ("0", "1"):
        ranks = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        log = tmp_path / f"rank-{rank}.log"
        processes.append(start_training(profile, store_root, tmp_path / "work", log, **ranks))
    for process in processes:
        process.join(TIMEOUT_S)
    assert [process.exitcode for process in processes] == [0, 0], events(tmp_path / "rank-0.log")
    assert losses(store_root) == pytest.approx(losses(whole_run), abs=2e-3)
    assert events(tmp_path / "rank-1.log") == []
    one, two = (load_file(root / TRAIN / "model" / "model.safetensors") for root in (whole_run, store_root))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 0.02
    manifest = json.loads(next(store_root.glob(f"{TRAIN}/checkpoints/*/step-00000012/manifest.json")).read_text())
    assert {"rank-00000.safetensors", "rank-00001.safetensors"} < set(manifest["files"])


def test_wrong_number_of_processes_is_an_error(
    start_training: Start, profile_file: Path, store_root: Path, tmp_path: Path
) -> None:
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    assert run(start_training, profile_file, store_root, tmp_path / "work", **ranks) == 1
    assert "got: WORLD_SIZE=2" in events(tmp_path / "work.log")[-1]["message"]


def wait_until(condition: object) -> None:
    """Poll until the condition holds."""
    assert callable(condition)
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_ledger_adds_up_to_the_tokens_of_all_steps(whole_run: Path) -> None:
    ledger = json.loads((whole_run / TRAIN / "ledger.json").read_text())
    assert ledger["tokens"] == sum(ledger["by_language"].values()) == 12 * 256
    assert sum(owner["share"] for owner in ledger["by_owner"].values()) == pytest.approx(12 * 256, abs=0.1)
    assert set(ledger["shards"]) == {"models/tiny/tokens/train-00000.bin"}
    stream = TokenStream([Shard(whole_run / key) for key in ledger["shards"]], ledger["seed"])
    steps = [consumed(stream, 256, from_step=step, up_to_step=step + 1).by_language for step in range(12)]
    assert sum(steps, Counter()) == ledger["by_language"]
    assert receipt(whole_run).metrics["consumed"]["by_language"] == ledger["by_language"]
    assert f"{TRAIN}/ledger.json" in receipt(whole_run).outputs


def test_a_flipped_bit_in_the_tokens_is_found_before_training(
    start_training: Start, profile_file: Path, store_root: Path, tmp_path: Path
) -> None:
    path = store_root / "models/tiny/tokens/train-00000.bin"
    data = bytearray(path.read_bytes())
    data[64 + Shard(path).num_tokens] ^= 1  # in the middle of the tokens; the index is whole
    path.write_bytes(data)
    assert Shard(path).num_documents
    assert run(start_training, profile_file, store_root, tmp_path / "work") == 1
    told = [event["message"] for event in events(tmp_path / "work.log")]
    assert "train-00000.bin is not what its receipt says" in told[-1]
    assert "making the model" not in told


def test_too_little_held_out_text_is_found_before_the_model_is_made(
    start_training: Start, store_root: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "long.yaml"
    training = PROFILE["training"] | {"batch_tokens": 8192, "tokens": 12 * 8192}  # type: ignore[operator]
    model = PROFILE["model"] | {"sequence_length": 8192}  # type: ignore[operator]
    profile.write_text(json.dumps(PROFILE | {"model": model, "training": training}))
    assert run(start_training, profile, store_root, tmp_path / "work") == 1
    told = [event["message"] for event in events(tmp_path / "work.log")]
    assert "too little held-out text" in told[-1]
    assert "making the model" not in told


def _train_with_a_broken_weight(
    profile: Path, root: Path, workdir: Path, log: Path, environment: Mapping[str, str]
) -> None:
    """Stage `train` on a machine whose memory has made a weight NaN."""
    from training.initial import InitialWeights

    read = InitialWeights.read

    def read_broken(self: InitialWeights, name: str, start: int, stop: int) -> torch.Tensor:
        values = read(self, name, start, stop)
        if name == "model.norm.weight":
            values[0] = float("nan")
        return values

    InitialWeights.read = read_broken  # type: ignore[method-assign]
    run_rank(profile, root, workdir, log, environment)


def test_a_loss_that_is_no_number_stops_with_its_documents(
    start_training: Start, profile_file: Path, store_root: Path, tmp_path: Path
) -> None:
    log = tmp_path / "work.log"
    process = multiprocessing.get_context("forkserver").Process(
        target=_train_with_a_broken_weight, args=(profile_file, store_root, tmp_path / "work", log, {})
    )
    process.start()
    process.join(TIMEOUT_S)
    assert process.exitcode == 1
    message = events(log)[-1]["message"]
    assert "loss or gradient is not a number at step 0" in message
    run = next(store_root.glob("models/tiny/runs/*"))
    named = json.loads((run / "not-finite-0.json").read_text())["documents"]
    assert named and all(document in message for document in named[:20])
    assert json.loads((run / "run.json").read_text())["status"] == "FAILED"
    # The batch's tokens are a part of these documents' tokens, one document after the other.
    shard = Shard(next(store_root.glob("models/tiny/tokens/train-*.bin")))
    numbers = {shard.document_id(number): number for number in range(shard.num_documents)}
    starts = shard.ends - shard.lengths
    texts = [shard.tokens[starts[numbers[name]] : shard.ends[numbers[name]]] for name in named]
    batch = TokenStream([shard], 0).rows(0, 4, 64, rank=0, world_size=1).ravel()
    joined = np.concatenate(texts)
    places = [
        place for place in range(min(len(texts[0]), len(joined) - 255)) if (joined[place : place + 256] == batch).all()
    ]
    assert places == [0] and len(joined) - len(texts[-1]) < 256, "documents that were not in the batch are named"
