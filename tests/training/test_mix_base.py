"""A mix together with a base: counted with the base's tokenizer, kept or extended, and trained from the base."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from sovereign.base import base_prefix, read_base
from sovereign.errors import StageError
from sovereign.lake.mix import mix_key
from sovereign.store import FolderStore
from tests.training.conftest import Start, events
from tests.training.test_base import TIMEOUT_S, save_llama
from tests.training.test_mixing import MIX, change, command, make_site, mix_of, receipt, run, shard_files
from training.ledger import open_run
from training.shards import Shard

TOKENS = 2_560


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("new_tokens", [0, 20])
def test_the_run_takes_what_was_approved(new_tokens: int, start_training: Start, tmp_path: Path) -> None:
    base = save_llama(tmp_path / "llama")
    required = {"mix": MIX, "governance": {"mix_approval": "required"}}
    training = {"tokens": TOKENS, "batch_tokens": 256, "threads_per_pod": 1, "compile": False}
    site = make_site(tmp_path / "made", training=training, **required)
    profile = json.loads(site.profile_path.read_text())
    site.profile_path.write_text(json.dumps(profile | {"base": {"model": str(base), "new_tokens": new_tokens}}))
    command(site, "approve", "--by", "A. Person")  # brings the base into the store, too
    run(site, "tokenize")
    mix, shards = mix_of(site), [Shard(path) for path in shard_files(site)]
    tokens: Counter[str] = Counter()
    for shard in shards:
        tokens.update(shard.by_language(shard.lengths))
    assert tokens == mix.shards["language"]
    highest = max(int(shard.tokens.max()) for shard in shards)
    size = read_base(base).tokenizer_size
    assert size <= highest < size + new_tokens if new_tokens else highest < size
    assert {mix_key("tiny"), base_prefix(read_base(base).digest)} <= receipt(site).inputs.keys()
    log = tmp_path / "log"
    process = start_training(site.resolved_profile(), site.data_dir, tmp_path / "work", log)
    process.join(TIMEOUT_S)
    assert process.exitcode == 0, events(log)
    ledger, _ = open_run(FolderStore(site.data_dir), "tiny", tmp_path / "ledger")
    assert ledger["tokens"] == TOKENS
    for language, forecast in mix.run["language"].items():
        assert 0 <= forecast - ledger["by_language"][language] <= tokens.total() - TOKENS
    # With another tokenizer the numbers of the mix are not those of the shards.
    change(site, base={"new_tokens": 10})
    with pytest.raises(StageError, match="the approved mix was counted with another tokenizer"):
        run(site, "tokenize")
