"""What the server of forks imports and makes before it forks (forked.py), so that no run does it again."""

from __future__ import annotations

from importlib import import_module

for name in ("training.train", "training.session"):
    import_module(name)
import_module("deepspeed.runtime.zero.muon.original_muon")  # DeepSpeed imports torch's compiler with it, 9 s of CPU
mapping = import_module("transformers.conversion_mapping")
mapping.get_checkpoint_conversion_mapping("qwen3")  # compiles a thousand regular expressions
