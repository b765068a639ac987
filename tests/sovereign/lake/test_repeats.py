"""Lines that stand in many documents of a source are taken out, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.lake import repeats
from sovereign.lake.cleaning import normalise, text_digest
from sovereign.lake.demonstration import make_documents
from sovereign.lake.documents import Document
from sovereign.lake.repeats import LineCount, LineIndex, Repeated, find_repeated, take_out
from sovereign.lake.stdlib import read_records
from sovereign.lake.work import PartsWriter
from sovereign.profile import Demonstration
from sovereign.profile_cleaning import RepeatedLines
from sovereign.receipts import Receipt
from sovereign.store import FolderStore
from tests.sovereign.lake.raw import put_raw, run_curate, verdicts

HEAD = "REPUBLIC OF ZAMUNA — MINISTRY OF LAWS AND RIVERS"
MENU = "Home\nNews\n\nLaws and decrees\n  Contact us\nRivers\nAll opening hours"
NOTICE = "This page stores cookies on your device so that it works as it should."
FOOT = "© Ministry of Laws. Texts may be passed on under\nthe licence that the Republic has for texts of its own."
OFF = {"language": None, "quality": None, "personal_data": None}


def documents(texts: list[str], source: str = "s", start: int = 0) -> list[Document]:
    return [
        Document(f"{source}/{start + number}", text, "en", source, (f"owner {number % 3}",), "CC0-1.0", None)
        for number, text in enumerate(texts)
    ]


def clean(
    some: list[Document],
    folder: Path,
    **rules: object,
) -> tuple[dict[str, tuple[Document, str]], Receipt]:
    """What curate makes of each document, by its id, and the receipt."""
    store = FolderStore(folder / "store")
    put_raw(store, some, folder / "scratch")
    receipt = run_curate(store, folder / "work", cleaning=OFF | rules)
    return {one.doc_id: (one, verdict) for one, verdict in verdicts(store)}, receipt


def test_planted_boilerplate_goes_from_real_text_and_nothing_else(tmp_path: Path) -> None:
    """Documentation of Python's library as pages of a site, with a letterhead, a menu, a notice within and a footer."""
    texts = [record["text"] for _, record in read_records() if 1_000 < len(record["text"]) < 5_000][:400]
    planted = []
    for number, text in enumerate(texts):
        first, *rest = text.split("\n\n")
        page = f"{HEAD}\n{MENU}\n\n{first}\n\n{NOTICE}\n\n" + "\n\n".join(rest) + f"\n\n\n{FOOT}\n"
        planted.append(page if number % 2 else text)
    before, receipt_before = clean(documents(texts), tmp_path / "before")
    after, receipt = clean(documents(planted), tmp_path / "after")
    pages = {f"s/{number}" for number in range(1, len(texts), 2)}
    kept = {key for key in pages if HEAD in after[key][0].text}
    assert len(kept) == RepeatedLines().max_documents
    for key in kept:
        assert all(part in after[key][0].text for part in (HEAD, MENU, NOTICE, FOOT))
    num_lines = sum(bool(line.strip()) for part in (HEAD, MENU, NOTICE, FOOT) for line in part.split("\n"))
    own = receipt_before.metrics["repeated_lines"].get("s", 0)
    assert receipt.metrics["repeated_lines"] == {"s": own + num_lines * (len(pages) - len(kept))}
    for key, (one, _) in after.items():
        if key not in kept:
            assert one.text == before[key][0].text
        if key in pages - kept:
            assert "repeated-lines" in one.transforms
    assert receipt.metrics["transforms"]["repeated-lines"] >= len(pages) - len(kept)


@pytest.mark.parametrize("facts", [30, 150])
def test_the_demonstration_country_stays_as_it_is(facts: int, tmp_path: Path) -> None:
    some = list(make_documents(Demonstration(seed=1, facts=facts)))
    with_rule, receipt = clean(some, tmp_path / "with")
    without, _ = clean(some, tmp_path / "without", repeated_lines=None)
    assert with_rule == without
    assert receipt.metrics["repeated_lines"] == {}


def test_copies_and_versions_of_a_text_stay_whole(tmp_path: Path) -> None:
    """Else nothing of them would be left for their owners to be found by."""
    law = "\n".join(f"Article {number}. Whoever crosses river {number} pays {number} coins." for number in range(40))
    copies = documents([f"{law}\nRead on day {number}, page {number % 7}." for number in range(30)])
    copies += documents(["One more text, so that there is something to train on." * 2], "other")
    versions = {"near_duplicates": {"keep_different_facts": False}}  # they differ in a day and a page only
    found, receipt = clean(copies, tmp_path / "default", **versions)
    kept = [one for one, verdict in found.values() if verdict in ("train", "heldout") and one.source == "s"]
    assert [one.owners for one in kept] == [("owner 0", "owner 1", "owner 2")]
    assert receipt.metrics["rejected"] == {"near duplicate": 29}
    assert receipt.metrics["repeated_lines"] == {}
    found, receipt = clean(copies, tmp_path / "all", repeated_lines={"max_share": 1.0}, min_chars=100, **versions)
    assert receipt.metrics["rejected"]["too short"] == 30 - 10
    assert receipt.metrics["repeated_lines"] == {"s": 40 * (30 - 10)}


def test_short_lines_and_other_sources_count_for_themselves(tmp_path: Path) -> None:
    poems = [f"O river\nThe bridge of town {number} is made of stone and of clay\nO river" for number in range(60)]
    notices = [f"{NOTICE}\n" + f"A word of {number}: " + "river " * 30 for number in range(10)]
    some = documents(poems) + [one for name in ("t", "u") for one in documents(notices, name)]
    _, receipt = clean(some, tmp_path / "default")
    assert receipt.metrics["repeated_lines"] == {}
    _, receipt = clean(some, tmp_path / "fewer", repeated_lines={"max_documents": 9})
    assert receipt.metrics["repeated_lines"] == {"t": 1, "u": 1}


def test_a_passage_goes_wherever_it_stands_in_a_text(tmp_path: Path) -> None:
    """The header of every page of a letter; a document that is too long is not counted."""
    letters = [
        f"{HEAD}\nThe first page of letter {number}: {'river ' * 20}\n{HEAD}\nThe second." for number in range(12)
    ]
    some = documents(letters) + documents(
        [f"{NOTICE}\n" + "long river " * 400 + str(number) for number in range(20)], "t"
    )
    found, receipt = clean(some, tmp_path, max_chars=1_000)
    assert receipt.metrics["repeated_lines"] == {"s": 2 * 2}
    assert sorted(found[f"s/{number}"][0].text.count(HEAD) for number in range(12)) == [0] * 2 + [2] * 10
    assert receipt.metrics["rejected"] == {"too long": 20}


def expected(texts: list[tuple[str, str]], rules: RepeatedLines) -> list[str]:
    """The rule, said in another way: every run of lines is looked for in every text."""

    def runs(text: str) -> dict[int, tuple[str, int]]:
        lines = [line.strip() for line in text.split("\n")]
        found = {}
        for start in range(len(lines)):
            for stop in range(start + 1, len(lines) + 1):
                if lines[start] and sum(map(len, lines[start:stop])) >= rules.min_chars:
                    found[start] = ("\n".join(line for line in lines[start:stop] if line), stop)
                    break
        return found

    holders: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for source, text in texts:
        for run, _ in runs(text).values():
            holders[source, run].add(text)
    results = []
    for source, text in texts:
        lines, gone = text.split("\n"), set[int]()
        for start, (run, stop) in runs(text).items():
            first = sorted(holders[source, run], key=text_digest)[: rules.max_documents]
            if text not in first:
                gone.update(range(start, stop))
        num_chars = [len(line.strip()) for line in lines]
        if sum(num_chars[line] for line in gone) > rules.max_share * sum(num_chars):
            gone = set()
        results.append(normalise("\n".join(line for number, line in enumerate(lines) if number not in gone))[0])
    return results


some_texts = st.lists(
    st.lists(st.sampled_from(["", "a", "bc", "  de", "f g h", "one long line", "two"]), max_size=8).map("\n".join),
    max_size=12,
)


@settings(deadline=None)
@given(
    tasks=st.lists(st.lists(st.tuples(st.sampled_from("st"), some_texts), max_size=3), max_size=3),
    max_documents=st.integers(1, 4),
    min_chars=st.integers(1, 12),
    max_share=st.sampled_from([0.3, 0.5, 1.0]),
    bits=st.integers(0, 3),
    held=st.integers(1, 20),
)
def test_what_goes_is_what_the_rule_says_for_any_tasks_and_parts(
    tasks: list[list[tuple[str, list[str]]]],
    max_documents: int,
    min_chars: int,
    max_share: float,
    bits: int,
    held: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rules = RepeatedLines(max_documents=max_documents, min_chars=min_chars, max_share=max_share)
    texts = [[(source, normalise(text)[0]) for source, some in task for text in some] for task in tasks]
    written: list[dict[str, bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "_HELD", held)
        for task in texts:
            folder = tmp_path_factory.mktemp("task")
            index = LineIndex(folder, rules, bits)
            for source, text in task:
                index.add(source, text)
            with PartsWriter(folder) as parts:
                index.write(parts)
            data = parts.path.read_bytes()
            written.append({name: data[start : start + size] for name, (start, size, _) in parts.parts.items()})
    found: defaultdict[int, list[bytes]] = defaultdict(list)
    for part in range(2**bits):
        count = LineCount(rules.max_documents)
        lines = [(task_parts.get(f"lines-{part}", b""), task_parts["texts"]) for task_parts in written]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(repeats, "_HELD", held)
            for task_lines in lines:
                count.add_task(*task_lines)
        if len(limits := count.limits()):
            for number, task_lines in enumerate(lines):
                found[number].append(find_repeated(*task_lines, limits))
    made = []
    for number, task in enumerate(texts):
        repeated = Repeated(found[number])
        for row, (_, text) in enumerate(task):
            starts = repeated.starts(row)
            made.append(take_out(text, starts, rules)[0] if starts else text)
    assert made == expected([one for task in texts for one in task], rules)
