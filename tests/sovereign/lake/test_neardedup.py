"""Near duplicates: signatures against exact sets of shingles, clusters against exact similarity, in any order."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign.lake import neardedup as module
from sovereign.lake.facts_sketch import SKETCH_VALUES
from sovereign.lake.neardedup import NUM_BANDS, NUM_GROUPS, ROWS, NearDuplicates
from sovereign.lake.shingles import NUM_BINS, SHINGLE_BYTES, shingle_hashes, signature
from sovereign.profile_cleaning import NearDuplicateRules

LETTERS = {
    "fr": "abcdefghijklmnopqrstuvwxyzéèç",
    "ar": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "zh": "巴比波达德杜加吉戈卡凯库拉莱洛马米穆",
}


def exact(text: str) -> set[bytes]:
    """The shingles themselves."""
    data = " ".join(text.casefold().split()).encode()
    width = min(SHINGLE_BYTES, len(data))
    return {data[start : start + width] for start in range(len(data) - width + 1)}


def similarity(one: str, other: str) -> float:
    return len(exact(one) & exact(other)) / len(exact(one) | exact(other))


def make_text(rng: random.Random, language: str = "fr", words: int = 120) -> str:
    return " ".join("".join(rng.choices(LETTERS[language], k=rng.randint(2, 9))) for _ in range(words))


def change(rng: random.Random, text: str, share: float) -> str:
    """`text` with a share of its words replaced."""
    return " ".join(make_text(rng, words=1) if rng.random() < share else word for word in text.split(" "))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200).filter(str.strip))
def test_every_shingle_has_its_hash(text: str) -> None:
    data = " ".join(text.casefold().split()).encode()
    hashes = shingle_hashes(text)
    assert len(hashes) == max(1, len(data) - SHINGLE_BYTES + 1)
    assert len(np.unique(hashes)) == len(exact(text))
    assert np.array_equal(signature(text), signature(f"  {text.upper().lower()} \n")) or text.upper() != text.lower()


@pytest.mark.parametrize("language", LETTERS)
@pytest.mark.parametrize(("words", "share"), [(20, 0.05), (120, 0.02), (120, 0.1), (1000, 0.03)])
def test_signatures_estimate_the_share_of_common_shingles(language: str, words: int, share: float) -> None:
    rng = random.Random(7)
    errors = []
    for _ in range(60):
        one = make_text(rng, language, words)
        other = change(rng, one, share)
        errors.append(float((signature(one) == signature(other)).mean()) - similarity(one, other))
    assert abs(np.mean(errors)) < 0.015
    assert np.std(errors) < 0.5 / NUM_BINS**0.5


def find(texts: Iterable[str], folder: Path, **rules: float) -> set[frozenset[str]]:
    """Clusters as sets of texts; checks which of its texts stands for each."""
    made = [(hashlib.sha256(text.encode()).digest(), text) for text in texts]
    found: dict[bytes, set[bytes]] = {}
    near = NearDuplicates(Path(tempfile.mkdtemp(dir=folder)), NearDuplicateRules.model_validate(rules))
    compared = [digest for digest, text in made if near.add(digest, text)]
    links = [folder / f"links-{group}" for group in range(NUM_GROUPS)]
    for group, path in enumerate(links):
        near.link(group, path)
    for number, one in enumerate(near.representatives(links).tolist()):
        found.setdefault(compared[one], set()).add(compared[number])
    by_digest = dict(made)
    clusters = {representative: members for representative, members in found.items() if len(members) > 1}
    assert all(min(members) == representative for representative, members in clusters.items())
    return {frozenset(by_digest[digest] for digest in members) for members in clusters.values()}


def families(rng: random.Random, count: int) -> list[list[str]]:
    """Texts, each with some that are nearly the same."""
    made = []
    for number in range(count):
        text = make_text(rng, list(LETTERS)[number % 3])
        made.append([text, *(change(rng, text, 0.01) for _ in range(number % 4))])
    return made


def test_clusters_are_right_and_the_order_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    made = families(rng, 120)
    texts = [text for family in made for text in family]
    expected = {frozenset(family) for family in made if len(set(family)) > 1}
    found = find(texts, tmp_path)
    assert len(expected & found) > 0.97 * len(expected)
    assert all(any(cluster <= set(family) for family in made) for cluster in found)
    rng.shuffle(texts)
    assert find(texts, tmp_path) == found
    monkeypatch.setattr(module, "_SORTED", 16)
    monkeypatch.setattr(module, "_BLOCK", 10)
    monkeypatch.setattr(module, "_COMPARED", 8)
    assert find(reversed(texts), tmp_path) == found
    assert find([*texts, *texts[::2], *texts[::3]], tmp_path) == found, "a text may come again"


def test_pairs_are_found_by_their_similarity(tmp_path: Path) -> None:
    rng = random.Random(2)
    pairs = []
    for share in (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16):
        originals = [make_text(rng, words=150) for _ in range(80)]
        pairs += [(text, change(rng, text, share)) for text in originals]
    found = find([text for pair in pairs for text in pair], tmp_path)
    apart = [pair for pair in pairs if pair[0] != pair[1]]
    alike = [frozenset(pair) in found for pair in apart if similarity(*pair) >= 0.85]
    unlike = [frozenset(pair) in found for pair in apart if similarity(*pair) < 0.65]
    assert min(len(alike), len(unlike)) > 100
    assert sum(alike) >= 0.99 * len(alike)
    assert sum(unlike) <= 0.01 * len(unlike)


def test_a_chain_of_small_changes_is_one_cluster(tmp_path: Path) -> None:
    rng = random.Random(3)
    chain = [make_text(rng)]
    for _ in range(12):
        chain.append(change(rng, chain[-1], 0.02))
    assert similarity(chain[0], chain[-1]) < 0.6
    assert find(chain, tmp_path) == {frozenset(chain)}


def test_short_facts_that_differ_in_a_name_are_kept_apart(tmp_path: Path) -> None:
    names = ["Zamuna", "Virmola", "Shotasho", "Kenlado", "Tovazi", "Modagui"]
    told = (
        "In Tamurel there is a river called the {} River. It is {} kilometres long, and its water is drunk in a town."
    )
    facts = [told.format(name, 100 + number) for number, name in enumerate(names)]
    assert find(facts, tmp_path, min_chars=100) == set()
    articles = [" ".join(facts[:3]) + name for name in names]
    assert find(articles, tmp_path) == set()
    assert find(articles, tmp_path, min_chars=100) == {frozenset(articles)}


def test_nothing_and_one_text(tmp_path: Path) -> None:
    assert find([], tmp_path) == set()
    assert find([make_text(random.Random(4))], tmp_path) == set()


def test_many_texts_with_one_band_are_compared_as_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of digests with the one before and the first, however many pieces that is done in."""
    rng = np.random.default_rng(5)
    count, similarity = 600, 0.65
    signatures = (rng.random((count, NUM_BINS)) < 0.28).astype(np.uint32)
    signatures[:400, :ROWS] = 9
    signatures[400:, :ROWS] += rng.integers(10, 30, (200, 1), np.uint32)
    digests = rng.integers(0, 256, (count, 32), np.uint8)
    clusters = [{number} for number in range(count)]
    for band in range(0, NUM_BANDS, NUM_GROUPS):
        buckets: dict[bytes, list[int]] = {}
        for number in sorted(range(count), key=lambda number: digests[number].tobytes()):
            buckets.setdefault(signatures[number, band * ROWS : (band + 1) * ROWS].tobytes(), []).append(number)
        for bucket in buckets.values():
            for place, number in enumerate(bucket):
                for other in {bucket[max(place - 1, 0)], bucket[0]}:
                    if (signatures[number] == signatures[other]).mean() >= similarity:
                        joined = clusters[number] | clusters[other]
                        for member in joined:
                            clusters[member] = joined
    expected = [(number, min(cluster)) for number, cluster in enumerate(clusters) if min(cluster) < number]
    assert len({first for _, first in expected}) > 10 and len(expected) > 50
    for block in (2**20, 64, 16):
        monkeypatch.setattr(module, "_SORTED", block)
        near = NearDuplicates(tmp_path / str(block), NearDuplicateRules(similarity=similarity))
        near.extend(np.pad(signatures, ((0, 0), (0, SKETCH_VALUES))).tobytes(), digests.tobytes())
        near.link(0, tmp_path / "links")
        assert [tuple(pair) for pair in np.fromfile(tmp_path / "links", np.int64).reshape(-1, 2).tolist()] == expected
