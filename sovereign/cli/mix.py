"""`sovereign lake mix` and `approve`: what a mix would be in tokens, and a person's word that it shall be so."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from sovereign.cli.console import Board, lines, say, write_json
from sovereign.cli.rights import say_taken_back
from sovereign.cli.work import runner_of
from sovereign.cli.writing import writing
from sovereign.errors import StageError
from sovereign.files import sha256_bytes, write_atomic
from sovereign.lake.dataset import Dataset
from sovereign.lake.mix import WARN_EPOCHS, Approval, MixFile, Portion, mix_key
from sovereign.owners import unicode_text
from sovereign.receipts import now
from sovereign.runner import StageEvent, parse_event
from sovereign.site import Site
from sovereign.store import Store

_TITLES = {
    "language": "By language",
    "domain": "By domain",
    "owner": "By owner (a document counts for each of its owners)",
    "licence": "By licence",
}


class _Events(io.StringIO):
    """A stage's progress lines, shown as they come."""

    def __init__(self, show: Callable[[StageEvent], None]) -> None:
        super().__init__()
        self._show = show

    def write(self, line: str) -> int:
        if event := parse_event(line):
            self._show(event)
        return len(line)


def run_mix(site: Site, *, out: Path | None, local: bool, as_json: bool) -> None:
    """Show what the profile's mix of the curated dataset is in tokens; nothing is stored but `out`.

    Raises:
        StageError: there is no curated dataset yet.
        PlanError: the mix names what the dataset does not have, or cannot give the tokens of the run.
        PublicationError: `out` cannot be written.
    """
    with site.lock("lake mix"), runner_of(site, local=local) as runner:
        mix = _propose(site, runner.store)
    if out is not None:
        with writing(out):
            write_atomic(out, mix.to_bytes())
    _show(mix, as_json=as_json)


def run_approve(site: Site, *, by: str, note: str, seen: Path | None, local: bool, as_json: bool) -> None:
    """Count the mix anew and leave it as approved in the store, where stage `tokenize` looks, and in the receipts.

    Args:
        site: whose mix.
        by: who approves.
        note: why.
        seen: the file of `run_mix` that was looked at; nothing but this mix is approved.
        local: on this machine, without a cluster.
        as_json: show it as JSON.

    Raises:
        StageError: as for `run_mix`, or nobody is named, or name or note is no text, or the mix is another one than
            `seen`, or that cannot be read.
        StoreError: `seen` is no mix.
        PlanError: see `run_mix`.
    """
    if not by.strip():
        raise StageError("nobody is named who approves the mix", expected="--by NAME")
    for option, words in (("--by", by), ("--note", note)):
        _refuse_bytes(option, words)
    expected = None if seen is None else _read(seen)
    with site.lock("lake approve"), runner_of(site, local=local) as runner:
        mix = _propose(site, runner.store)
        if expected is not None:
            _refuse_another(mix, expected)
        mix = mix.model_copy(update={"approval": Approval(by=by.strip(), at=now(), note=note)})
        runner.store.put_bytes(mix_key(mix.name), mix.to_bytes())
    path = site.receipts_dir / "mix.json"
    write_atomic(path, mix.to_bytes())
    _show(mix, as_json=as_json)
    say(f"approved by {by.strip()}: {path}, sha256 {sha256_bytes(mix.to_bytes())}")
    if site.profile.governance.mix_approval == "none":
        say("governance.mix_approval is none in the profile: stage tokenize does not ask for it")


def _refuse_bytes(option: str, words: str) -> None:
    """Raises: StageError: the shell gave bytes that are not UTF-8."""
    try:
        unicode_text(words)
    except ValueError as error:
        raise StageError(f"{option} is not text in UTF-8", got=ascii(words)) from error


def _read(path: Path) -> MixFile:
    try:
        return MixFile.from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise StageError(f"cannot read {path}: {error}", hint="sovereign lake mix SITE --out FILE writes it") from error


def _refuse_another(mix: MixFile, seen: MixFile) -> None:
    """Raises: StageError: `mix` is another one than the one that was looked at, approval aside."""
    if differs := mix.differences(seen):
        raise StageError(
            "the mix is not the one that was looked at",
            got=f"another {', '.join(differs)}",
            hint="sovereign lake mix SITE --out FILE shows what it is now",
        )


def _propose(site: Site, store: Store) -> MixFile:
    from training.tokenize import propose_mix

    with TemporaryDirectory(prefix="sovereign-mix-") as folder, Board() as board, board.task("mix"):
        say_taken_back(site, Dataset.open(site.profile.name, store, Path(folder, "dataset")))
        return propose_mix(site.profile, store, Path(folder), _Events(board.stage))


def _show(mix: MixFile, *, as_json: bool) -> None:
    often = [portion for portion in mix.groups if portion.epochs > WARN_EPOCHS]
    if as_json:
        write_json(mix.model_dump(mode="json") | {"warnings": [_warning(portion) for portion in often]})
    else:
        taken = [portion for portion in mix.groups if portion.shards.tokens]
        title = (
            f"Mix of {mix.name}: {mix.request.tokens:,} tokens of training, by the tokenizer that tokenize will make"
        )
        lines(title, [(portion.group.label, _sentence(portion)) for portion in taken])
        if left_out := [portion for portion in mix.groups if not portion.shards.tokens]:
            lines("Left out", [(one.group.label, f"{one.dataset.tokens:,} tokens") for one in left_out])
        for kind, heading in _TITLES.items():
            lines(heading, [(name, f"{tokens:,} tokens") for name, tokens in mix.run[kind].items()])
    for portion in often:
        say(f"warning: {_warning(portion)}", style="yellow")


def _sentence(portion: Portion) -> str:
    once = f"{portion.dataset.tokens:,} tokens in {portion.dataset.documents:,} documents"
    return f"{once}, {portion.epochs:,.4g} epochs{', capped' if portion.is_capped else ''}"


def _warning(portion: Portion) -> str:
    return (
        f"{portion.group.label} is taken {portion.epochs:,.4g} times; beyond {WARN_EPOCHS} epochs repeated text is "
        "worth ever less (Muennighoff et al. 2023)"
    )
