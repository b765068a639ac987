"""`sovereign lake`: the manifest of the site's dataset, proofs of what is in it and what is not, and their check."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sovereign.cli.console import Board, lines, say, write_json
from sovereign.cli.rights import say_taken_back
from sovereign.cli.runs import store_of
from sovereign.errors import ProofError
from sovereign.files import sha256_bytes, write_atomic
from sovereign.lake.cleaning import text_digest
from sovereign.lake.commitments import DatasetKeys, commit_key
from sovereign.lake.dataset import Dataset
from sovereign.lake.leaves import Leaves
from sovereign.lake.manifest import make_manifest
from sovereign.lake.pii import Masker
from sovereign.lake.proofs import (
    Anchor,
    Exclusion,
    Inclusion,
    Proof,
    check,
    confirm,
    normal_digest,
    prove,
    read_anchor,
    read_proof,
    write_proof,
)
from sovereign.lake.screening import Screen
from sovereign.profile_cleaning import PersonalData
from sovereign.site import Site


@dataclass(frozen=True)
class _Open:
    """The site's dataset with its secrets."""

    dataset: Dataset
    keys: DatasetKeys
    leaves_path: Path

    @property
    def manifest_key(self) -> str:
        return f"{self.dataset.prefix}manifest.json"


@contextmanager
def _open(site: Site, command: str, *, local: bool) -> Iterator[_Open]:
    with (
        site.lock(f"lake {command}"),
        store_of(site, local=local) as store,
        TemporaryDirectory(prefix="sovereign-lake-") as folder,
    ):
        dataset = Dataset.open(site.profile.name, store, Path(folder))
        keys = DatasetKeys.derive(site.dataset_key(), dataset.name, dataset.files)
        leaves = site.data_dir / "leaves" / f"{commit_key(keys.openings).hex()[:16]}.sqlite"
        yield _Open(dataset, keys, leaves)


def run_manifest(site: Site, *, local: bool, as_json: bool) -> None:
    """Make the manifest of the dataset as it is now, beside its files in the store and in the site's receipts."""
    with _open(site, "manifest", local=local) as opened:
        say_taken_back(site, opened.dataset)
        with Board() as board, board.task("manifest"):
            manifest = make_manifest(
                site.profile,
                opened.dataset,
                opened.keys,
                opened.leaves_path,
                lambda done, total: board.update("manifest", f"{done:,} of {total:,} documents", done / total),
            )
        opened.dataset.store.put_bytes(opened.manifest_key, manifest)
        for old in set(opened.leaves_path.parent.iterdir()) - {opened.leaves_path}:
            old.unlink()  # of datasets that were here before
    write_atomic(site.manifest_file, manifest)
    anchor = read_anchor(manifest)
    found = {"manifest": str(site.manifest_file), "sha256": sha256_bytes(manifest), **anchor.model_dump()}
    if as_json:
        write_json(found)
    else:
        lines(f"Manifest of {anchor.dataset}", [(name, str(value)) for name, value in found.items()])


def run_prove(
    site: Site,
    *,
    text: Path | None,
    language: str,
    document: str | None,
    out: Path,
    open_key: bool,
    local: bool,
    as_json: bool,
) -> None:
    """Prove that a text or a document is in the dataset, or that a text is not.

    Args:
        language: the text's, BCP 47: boilerplate is taken out by language.

    Raises:
        ProofError: neither or both are named, there is no such document, or the manifest is not of this dataset.
    """
    if (text is None) == (document is None):
        raise ProofError("what the proof is about is not clear", expected="either --text FILE or --document ID")
    with _open(site, "prove", local=local) as opened:
        dataset, keys = opened.dataset, opened.keys
        if not dataset.store.exists(opened.manifest_key):
            raise ProofError(f"dataset {dataset.name} has no manifest", hint=f"sovereign lake manifest {site.root}")
        anchor = read_anchor(dataset.store.get_bytes(opened.manifest_key))
        if anchor.key_commitment != commit_key(keys.openings).hex():
            raise ProofError(
                "the manifest is of other files, or was made with another dataset key",
                hint=f"sovereign lake manifest {site.root} makes it anew; or restore {site.dataset_key_file}",
            )
        if text is not None:
            if not dataset.is_made_by(site.profile):
                raise ProofError(
                    "the profile's settings of corpus.cleaning or corpus.rights are not those that the dataset has",
                    expected="the settings with which the text was cleaned, since a proof is about the cleaned text",
                    hint="take the change of the profile back, or make the dataset anew: sovereign stage curate "
                    f"{site.root}",
                )
            kept = Screen(site.profile.corpus.cleaning).text_of(_read_text(text), language)
        else:
            kept = dataset.find(str(document)).document.text
        if not opened.leaves_path.exists():
            dataset.build_leaves(opened.leaves_path, keys)
        try:
            with Leaves(opened.leaves_path) as leaves:
                proof = prove(anchor, leaves, keys, text_digest(kept), dataset.entry, open_key=open_key)
        except (sqlite3.DatabaseError, ProofError) as error:
            raise ProofError(
                f"no proof can be made: {error}", hint=f"delete {opened.leaves_path}; it is made again"
            ) from error
    write_atomic(out, write_proof(proof))
    _show(proof, anchor, as_json=as_json)
    if not as_json:
        say(f"written to {out}; checked with: sovereign lake check {out} --manifest {site.manifest_file}")
    shortened = dataset.parents["curate"].metrics["transforms"].get("repeated-lines", 0)
    if shortened and text is not None and isinstance(proof, Exclusion):
        say(f"repeated lines were taken out of {shortened:,} documents; is it one of them? --document ID tells")


def run_check(path: Path, manifest: Path, *, text: Path | None, key: Path | None, as_json: bool) -> None:
    """Check a proof against a manifest, and that it is about a text.

    Args:
        key: another proof of the manifest, which shows the key of all openings.

    Raises:
        ProofError: it does not hold, it is about another text, or a file cannot be read.
    """
    content = _read(manifest)
    proof, anchor = read_proof(_read(path)), read_anchor(content)
    check(proof, anchor)
    if key is not None:
        proof = confirm(proof, read_proof(_read(key)), anchor)
    given = None if text is None else _read_text(text)
    if given is not None and (found := normal_digest(given).hex()) != proof.text_sha256:
        raise ProofError(
            "the proof is about another text",
            got=found,
            expected=proof.text_sha256,
            hint="it must be the text as the dataset keeps it, with personal data masked and repeated lines gone "
            "(docs/datasets.md)",
        )
    _show(proof, anchor, as_json=as_json, manifest_sha256=sha256_bytes(content), text_compared=given is not None)
    if given is None or not isinstance(proof, Exclusion):
        return
    if personal := Masker(PersonalData()).mask(given)[1]:
        say(f"the text has personal data ({', '.join(sorted(personal))}): is it in the dataset with masks?", "yellow")


def _show(proof: Proof, anchor: Anchor, *, as_json: bool, **more: Any) -> None:
    stated = isinstance(proof, Exclusion) and proof.openings_key is None
    found: dict[str, Any] = {"kind": proof.kind, "rests_on": "the issuer's word" if stated else "the root"}
    found["opening"] = "follows from the manifest's key" if proof.openings_key else "the issuer's word"
    found |= anchor.model_dump(include={"dataset", "size", "root"}) | {"text_sha256": proof.text_sha256} | more
    record = proof.record if isinstance(proof, Inclusion) else {}
    if as_json:  # what the maker committed to stays apart from what was checked
        write_json(found | ({"record": record} if record else {}))
        return
    if record:
        title = f"A document with this text is in {anchor.dataset}"
    else:
        title = f"{'Stated, not proven: this' if stated else 'This'} text is not in {anchor.dataset}"
    rows = [(name, str(value)) for name, value in found.items()]
    lines(title, rows + [(f"record {name}", _spell(value)) for name, value in record.items()])


def _spell(value: object) -> str:
    """As JSON in one line, with nothing in it that a terminal obeys."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def _read_text(path: Path) -> str:
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise ProofError(f"{path} is not UTF-8: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProofError(f"cannot read {path}: {error}") from error
