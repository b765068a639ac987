"""Speed of curation against datatrove's own steps on the same text, on one core.

    python -m sovereign.lake.bench [REPEATS]      default 3; prints JSON lines

The text is Python's own documentation in pieces of about 3,000 characters; for near duplicates each has a copy in which
one word in a hundred differs. The contestants run in turn, by processor time; `ratio` is the median over the turns,
with the lowest and the highest. datatrove splits words with spaCy; it is measured with words split at spaces too, as
this kit does. Where it cannot be imported (`make bench` sees to it) only this kit is measured.
"""

from __future__ import annotations

import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from sovereign.lake.language import identify
from sovereign.lake.neardedup import NUM_GROUPS, NearDuplicates
from sovereign.lake.pii import Masker
from sovereign.lake.quality import assess
from sovereign.lake.stdlib import read_records
from sovereign.profile_cleaning import NearDuplicateRules, PersonalData, Quality

PIECE_CHARS = 3_000
MAX_TEXTS = 200
WANTED = {"quality rules": 1.5, "near duplicates": 2.0}
"""Ratio of documents/s that this kit must reach."""

Contestant = Callable[[list[str]], int]
"""From texts to the number that it would take out or change."""


def make_texts() -> list[str]:
    """Pieces of the documentation of Python, in the order of its files."""
    texts, current = [], ""
    for _, record in read_records():
        current += record["text"] + "\n\n"
        if len(current) >= PIECE_CHARS:
            texts.append(current.strip())
            current = ""
    return texts


def with_copies(texts: list[str]) -> list[str]:
    """Each text, and a near duplicate of it."""
    rng = random.Random(1)  # noqa: S311 — a fixed test text
    copies = [" ".join("word" if rng.random() < 0.01 else word for word in text.split(" ")) for text in texts]
    return [text for pair in zip(texts, copies, strict=True) for text in pair]


def our_rules(texts: list[str]) -> int:
    """Texts that fail a quality rule."""
    limits = {"min_punctuated_lines": 0.12, "max_short_lines": 0.67, "max_duplicate_line_chars": 0.01}  # as FineWeb
    quality = Quality.model_validate({"measured_from_words": 50, "min_alphabetic_words": 0.8, **limits})
    return sum(bool(assess(text, "en", quality)[1]) for text in texts)


def our_near_duplicates(texts: list[str]) -> int:
    """Texts that another one stands for."""
    with tempfile.TemporaryDirectory() as folder:
        near = NearDuplicates(Path(folder) / "near", NearDuplicateRules())
        for text in texts:
            near.add(hashlib.sha256(text.encode()).digest(), text)
        links = [Path(folder) / str(group) for group in range(NUM_GROUPS)]
        for group, path in enumerate(links):
            near.link(group, path)
        standing = near.representatives(links)
        return sum(one != number for number, one in enumerate(standing.tolist()))


def our_masks(texts: list[str]) -> int:
    """Texts with an e-mail or IP address."""
    masker = Masker(PersonalData(kinds=("email", "ip")))
    return sum(bool(masker.mask(text)[1]) for text in texts)


def all_masks(texts: list[str]) -> int:
    """Texts with personal data of any kind."""
    masker = Masker(PersonalData())
    return sum(bool(masker.mask(text)[1]) for text in texts)


def languages(texts: list[str]) -> int:
    """Texts that are not in English."""
    return sum(identify(text)[0] != "en" for text in texts)


def peers(words: Any) -> dict[str, Contestant]:
    """datatrove's steps; `words` names a language, or is what splits a text into words."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters import PIIFormatter

    def rules(texts: list[str]) -> int:
        filters = [kind(language=words) for kind in (GopherRepetitionFilter, GopherQualityFilter, FineWebQualityFilter)]
        documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
        return sum(any([step.filter(document) is not True for step in filters]) for document in documents)  # noqa: C419

    def near_duplicates(texts: list[str]) -> int:
        config = minhash.MinhashConfig()
        with tempfile.TemporaryDirectory() as folder:
            signatures, buckets, removed = (f"{folder}/{name}" for name in ("signatures", "buckets", "removed"))
            documents = (Document(text=text, id=str(number)) for number, text in enumerate(texts))
            minhash.MinhashDedupSignature(signatures, config, language=words).run(documents, 0, 1)
            for bucket in range(config.num_buckets):
                minhash.MinhashDedupBuckets(signatures, buckets, config=config).run(None, bucket, config.num_buckets)
            minhash.MinhashDedupCluster(buckets, removed, config).run(None, 0, 1)
            return sum(path.stat().st_size for path in Path(removed).glob("*.remove")) // 4

    def masks(texts: list[str]) -> int:
        formatter = PIIFormatter()
        return sum(formatter.format(text) != text for text in texts)

    return {"quality rules": rules, "near duplicates": near_duplicates, "masks: email, ip": masks}


def split_at_spaces() -> Any:
    """What datatrove splits words with, doing as little as can be."""
    from datatrove.utils.word_tokenizers import WordTokenizer
    from loguru import logger

    logger.disable("datatrove")

    class AtSpaces(WordTokenizer):  # type: ignore[misc]  # not installed where types are checked
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return text.split("\n")

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    return AtSpaces()


def measure(contestants: dict[str, Contestant], texts: list[str], repeats: int) -> Iterator[dict[str, Any]]:
    """Documents/s of each by processor time, in turn; the first is this kit."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    taken: dict[str, int] = {}
    for number in range(repeats + 1):
        for name, contestant in contestants.items():
            start = time.process_time()
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                taken[name] = contestant(texts)
            if number:  # the first turn loads models
                speeds[name].append(len(texts) / (time.process_time() - start))
    ours, *others = contestants
    yield {"who": ours, "documents_per_s": round(statistics.median(speeds[ours])), "taken": taken[ours]}
    for name in others:
        ratios = [one / other for one, other in zip(speeds[ours], speeds[name], strict=True)]
        yield {
            "who": name,
            "documents_per_s": round(statistics.median(speeds[name]), 1),
            "taken": taken[name],
            "ratio": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
        }


def main(arguments: list[str]) -> None:
    """Measure everything."""
    repeats = int(arguments[0]) if arguments else 3
    texts = make_texts()[:MAX_TEXTS]
    own: dict[str, Contestant] = {
        "quality rules": our_rules,
        "near duplicates": our_near_duplicates,
        "masks: email, ip": our_masks,
        "masks: all kinds": all_masks,
        "language": languages,
    }
    others: dict[str, dict[str, Contestant]] = {}
    if find_spec("datatrove"):
        if find_spec("spacy"):
            others["datatrove"] = peers("eng")
        others["datatrove, words split at spaces"] = peers(split_at_spaces())
    for name, contestant in own.items():
        some = with_copies(texts) if name == "near duplicates" else texts
        contestants = {"sovereign": contestant}
        contestants |= {peer: steps[name] for peer, steps in others.items() if name in steps}
        for line in measure(contestants, some, repeats):
            wanted = {"wanted": WANTED[name]} if "ratio" in line and name in WANTED else {}
            line = {
                "name": f"curation: {name}",
                "documents": len(some),
                "characters": sum(map(len, some)),
                **line,
                **wanted,
            }
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
