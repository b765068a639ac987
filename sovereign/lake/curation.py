"""Curation: the steps of stage `curate`, each shared out among its ranks (sovereign/lake/work.py).

    plan     one unit     the tasks: runs of row groups in the raw files
    rights   a task       which documents may not be trained on
    gate     one unit     a run over such documents is refused
    lines    a task       hashes of the documents' lines
    repeats  some lines   by groups of tasks and parts of the hashes: lines that stand in many documents of a source
    screen   a task       each document by itself, and what is to be known of it to find duplicates
    link     some bands   pairs of near duplicates
    cluster  one unit     clusters of near duplicates, and who stands for each
    merge    some texts   by parts of the digests: which copy of a text is kept, and with which owners
    decide   a task       the files of the result, still beside the result before
    commit   one unit     the receipt and the files of the result before go
    publish  a task       the files get their names

Tasks and parts are functions of the corpus, so every byte of the result is the same for any number of ranks. What a
rank holds in memory is bounded by a task and a part, whatever the corpus, but for some 0.2 kB a task.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sovereign.errors import StageError
from sovereign.lake.cleaning import normalise, text_digest
from sovereign.lake.demonstration import Question
from sovereign.lake.documents import Counts, Document, DocumentWriter, read_rows
from sovereign.lake.duplicates import ClusterSplit, Heldout, PartMerge, TaskIndex, Verdicts, decide, part_bits
from sovereign.lake.ingest import with_progress
from sovereign.lake.neardedup import NUM_GROUPS, NearDuplicates
from sovereign.lake.repeats import GROUP_TASKS, LineCount, LineIndex, Repeated, find_repeated
from sovereign.lake.repeats import part_bits as line_part_bits
from sovereign.lake.rights import Findings, RightsRules, read_claims, with_spdx_spelling
from sovereign.lake.screening import Screen
from sovereign.lake.tally import SPLITS, Tally, advise, told
from sovereign.lake.tasks import Span, Task, list_tasks
from sovereign.lake.work import Part, PartsWriter, Result, Step, Work
from sovereign.locks import hold
from sovereign.receipts import code_digest
from sovereign.stages import StageContext

_NAMES = (
    "plan",
    "rights",
    "gate",
    "lines",
    "repeats",
    "screen",
    "link",
    "cluster",
    "merge",
    "decide",
    "commit",
    "publish",
)
_SCREENED = "screened-00000.parquet"
_ROOM_BYTES = 2**16


class Curation:
    """One rank of the stage."""

    def __init__(self, context: StageContext) -> None:
        """Raises: StageError when there is no such rank."""
        self.context, self.store = context, context.store
        self.rules, self.settings = context.profile.corpus.cleaning, context.profile.corpus.curation
        self.raw, self.curated = f"raw/{context.dataset}/", f"curated/{context.dataset}/"
        self.raw_keys = [key for key in sorted(context.inputs) if key.endswith(".parquet")]
        self.work = Work(context, f"{self.curated}units/{context.key[:16]}-{code_digest()[:16]}/", _NAMES)
        self._raw_file: tuple[int, Path] | None = None

    def run(self) -> dict[str, str]:
        """Do this rank's share; rank 0 waits for all and gives the digest of every file of the result by store key.

        Raises:
            StageError: nothing is left to train on; another rank does not go on; what is read is damaged.
        """
        with hold(
            self.context.workdir / "lock", partial(self.context.progress, "waiting for a process of another run")
        ):
            plan = Step("plan", 1, self._plan)
            self.work.run([plan])
            self.work.wait([plan], self.context.is_over if self.context.rank else lambda: False)
            if self.context.rank and self.context.is_over():
                return {}
            steps = [plan, *self._steps()]
            self._forget_lost()
            self.work.run(steps)
            self._drop_scratch()
            if self.context.rank:
                return {}
            self.work.wait(steps)
            return {self.curated + name: digest for name, digest in self.tally.files.items()}

    def _forget_lost(self) -> None:
        """Have a file published again that is not there any more; an earlier run may have left its work."""
        for task in self.work.done("publish") & set(self.work.share(len(self.tasks))):
            names = self.work.marker("decide", task).files
            if not all(self.store.exists(self.curated + name) for name in names):
                self.work.forget("publish", task)

    def _steps(self) -> list[Step]:
        num_near = 1 if self.rules.near_duplicates else 0
        num_lines = 1 if self.rules.repeated_lines else 0
        num_tasks = len(self.tasks)
        return [
            Step("rights", num_tasks, self._rights),
            Step("gate", 1, self._gate),
            Step("lines", num_tasks * num_lines, self._lines),
            Step("repeats", -(-num_tasks // GROUP_TASKS) * 2**self.line_bits * num_lines, self._repeats),
            Step("screen", num_tasks, self._screen),
            Step("link", NUM_GROUPS * num_near, self._link),
            Step("cluster", num_near, self._cluster),
            Step("merge", 2**self.bits, self._merge),
            Step("decide", num_tasks, self._decide),
            Step("commit", 1, self._commit),
            Step("publish", num_tasks, self._publish),
        ]

    def _plan(self, _number: int, _folder: Path) -> Result:
        return Result(facts={"tasks": list(list_tasks(self.store, self.raw_keys, self.settings.task_mb * 1e6))})

    @cached_property
    def tasks(self) -> list[Task]:
        """All tasks."""
        listed = self.work.marker("plan", 0).facts["tasks"]
        return [Task(tuple(Span(*span) for span in spans), num_documents) for spans, num_documents in listed]

    @cached_property
    def num_documents(self) -> int:
        """Documents that go in."""
        return sum(task.num_documents for task in self.tasks)

    @cached_property
    def bits(self) -> int:
        """Bits of a text's digest that say in which part it is."""
        return part_bits(self.num_documents)

    @cached_property
    def line_bits(self) -> int:
        """Bits of a passage's hash that say in which part of its group of tasks it is."""
        return line_part_bits(len(self.tasks), self.settings.task_mb * 1e6)

    @cached_property
    def rights(self) -> RightsRules:
        """Whose text may be used."""
        return RightsRules(self.context.profile.corpus)

    @cached_property
    def screen(self) -> Screen:
        """The rules that need one document only."""
        return Screen(self.rules)

    @cached_property
    def questions(self) -> list[tuple[Question, bytes]]:
        """The questions, each with the digest of its document as it would be kept."""
        path = self.context.fetch(self.raw + "questions.jsonl")
        found = []
        with path.open(encoding="utf-8") as file:
            for line in file:
                question = Question(**json.loads(line))
                found.append((question, text_digest(self.screen.text_of(question.document_text, question.language))))
        return found

    def _rights(self, number: int, _folder: Path) -> Result:
        self.context.progress("checking rights", done=number, total=len(self.tasks), unit="tasks")
        claims = (
            document
            for span in self.tasks[number].spans
            for document in read_claims([self._fetch_raw(span.file)], range(span.first, span.stop))
        )
        return Result(facts=self.rights.examine(claims).to_json())

    def _gate(self, _number: int, _folder: Path) -> Result:
        self.rights.admit(self._findings())
        return Result()

    def _findings(self) -> Findings:
        findings = Findings()
        for task in range(len(self.tasks)):
            findings.update(Findings.from_json(self.work.marker("rights", task).facts))
        return findings

    def _lines(self, number: int, folder: Path) -> Result:
        assert self.rules.repeated_lines is not None
        index = LineIndex(folder, self.rules.repeated_lines, self.line_bits)
        for document in self._progress(self._read_raw(number), number, "lines"):
            text = "" if self.rights.reason(document) else normalise(document.text)[0]
            index.add(document.source, text if len(text) <= self.rules.max_chars else "")
        with PartsWriter(folder) as parts:
            index.write(parts)
        return parts.result()

    def _repeats(self, number: int, folder: Path) -> Result:
        assert self.rules.repeated_lines is not None
        group, part = divmod(number, 2**self.line_bits)
        self.context.progress("repeated lines", done=part, total=2**self.line_bits, unit="parts")
        count = LineCount(self.rules.repeated_lines.max_documents)
        tasks = range(len(self.tasks))[group * GROUP_TASKS : (group + 1) * GROUP_TASKS]
        for task in tasks:
            count.add_task(*self.work.read("lines", task, f"lines-{part}", "texts"))
        limits = count.limits()
        with PartsWriter(folder) as parts:
            for task in tasks if len(limits) else ():
                passages, texts = self.work.read("lines", task, f"lines-{part}", "texts")
                if places := find_repeated(passages, texts, limits):
                    parts.add(str(task), places)
        return parts.result()

    def _repeated(self, number: int) -> Repeated:
        if self.rules.repeated_lines is None:
            return Repeated([])
        first = number // GROUP_TASKS * 2**self.line_bits
        units = range(first, first + 2**self.line_bits)
        return Repeated([self.work.read("repeats", unit, str(number))[0] for unit in units])

    def _screen(self, number: int, folder: Path) -> Result:
        """What was taken back or may not be trained on is written without its text."""
        index = TaskIndex(folder / "near", self.rules.near_duplicates)
        repeated = self._repeated(number)
        self.screen.masked, self.screen.repeated = Counter(), Counter()
        with DocumentWriter(folder, "screened", extra=["reason"]) as writer:
            for row, document in enumerate(self._progress(self._read_raw(number), number, "first pass")):
                if reason := self.rights.reason(document):
                    writer.add(replace(document, text=""), reason=reason)
                    continue
                screened, reason = self.screen.apply(document, repeated.starts(row))
                writer.add(screened, reason=reason)
                if not reason:
                    index.add(row, screened)
        with PartsWriter(folder) as parts:
            index.write(parts, self.bits)
        result = parts.result(masked=dict(self.screen.masked), repeated_lines=dict(self.screen.repeated))
        assert [path.name for path in writer.files] == [_SCREENED], "a task is smaller than a file"
        result.files += writer.files
        return result

    def _read_raw(self, number: int) -> Iterator[Document]:
        for span in self.tasks[number].spans:
            for document, _ in read_rows([self._fetch_raw(span.file)], groups=range(span.first, span.stop)):
                yield with_spdx_spelling(document)

    def _fetch_raw(self, file: int) -> Path:
        """One raw file at a time lies in the work folder."""
        if self._raw_file is None or self._raw_file[0] != file:
            if self._raw_file:
                self._raw_file[1].unlink()
            self._raw_file = (file, self.context.fetch(self.raw_keys[file]))
        return self._raw_file[1]

    def _progress(self, rows: Iterable[Any], number: int, message: str) -> Iterator[Any]:
        passes = [*(["lines"] if self.rules.repeated_lines else []), "first pass", "second pass"]
        start = passes.index(message) * self.num_documents + sum(task.num_documents for task in self.tasks[:number])
        return with_progress(self.context, rows, message, start=start, total=len(passes) * self.num_documents)

    def _near(self, *names: str) -> NearDuplicates:
        """What the tasks told of their texts with a signature, all of them, in this rank's work folder."""
        assert self.rules.near_duplicates is not None
        folder = self.context.workdir / "near"
        shutil.rmtree(folder, ignore_errors=True)
        near = NearDuplicates(folder, self.rules.near_duplicates)
        for task in range(len(self.tasks)):
            near.extend(*self.work.read("screen", task, *names))
        return near

    @cached_property
    def _all_signatures(self) -> NearDuplicates:
        return self._near("signatures", "digests")

    def _link(self, number: int, folder: Path) -> Result:
        self.context.progress("near duplicates", done=number, total=NUM_GROUPS, unit="groups of bands")
        self._all_signatures.link(number, folder / "links")
        return Result([folder / "links"])

    def _cluster(self, _number: int, folder: Path) -> Result:
        self.context.progress("clusters of near duplicates")
        near = self._all_signatures
        links = []
        for group in range(NUM_GROUPS):
            (folder / str(group)).mkdir()
            links.append(self.work.fetch("link", group, "links", folder / str(group)))
        standing = near.representatives(links)
        split = ClusterSplit(folder, self.bits)
        digests, start = near.digests, 0
        for task in range(len(self.tasks)):
            read = partial(self.work.read, "screen", task)
            stop = start + len(read("digests")[0]) // 32
            split.add(digests[start:stop], digests[standing[start:stop]], read)
            start = stop
        with PartsWriter(folder) as parts:
            split.write(parts)
        return parts.result()

    def _merge(self, number: int, folder: Path) -> Result:
        self.context.progress("duplicates", done=number, total=2**self.bits, unit="parts")
        merge = PartMerge()
        if self.rules.near_duplicates:
            merge.add_clusters(*self.work.read("cluster", 0, f"gone-{number}", f"rights-{number}"))
        for task in range(len(self.tasks)):
            documents, tables = self.work.read("screen", task, f"documents-{number}", "tables")
            if documents:
                merge.add_task(task, documents, tables)
        verdicts, languages = merge.decide()
        with PartsWriter(folder) as parts:
            for task, decided in sorted(verdicts.items()):
                parts.add(str(task), decided.to_bytes())
        return parts.result(languages=languages)

    @cached_property
    def _verdict_parts(self) -> dict[int, list[tuple[int, Part]]]:
        """Where the verdicts of this rank's tasks are: the parts of the digests and of their files."""
        found: defaultdict[int, list[tuple[int, Part]]] = defaultdict(list)
        own = set(self.work.share(len(self.tasks)))
        for number in range(2**self.bits):
            for task, part in self.work.marker("merge", number).parts.items():
                if int(task) in own:
                    found[int(task)].append((number, part))
        return found

    @cached_property
    def _heldout(self) -> Heldout:
        counts = (self.work.marker("merge", number).facts["languages"] for number in range(2**self.bits))
        return Heldout(self.rules.heldout_fraction, counts)

    @cached_property
    def _asked(self) -> frozenset[bytes]:
        return frozenset(digest for _, digest in self.questions)

    def _decide(self, number: int, folder: Path) -> Result:
        verdicts = Verdicts()
        for merged, part in self._verdict_parts.get(number, ()):
            verdicts.update(self.work.read_part("merge", merged, part))
        (folder / "in").mkdir()
        screened = self.work.fetch("screen", number, _SCREENED, folder / "in")
        counts = {split: Counts() for split in SPLITS}
        rejected, transforms, asked = Counter[str](), Counter[str](), {}
        with ExitStack() as stack:
            writers = {split: stack.enter_context(DocumentWriter(folder, split, first=number)) for split in SPLITS}
            aside = stack.enter_context(DocumentWriter(folder, "rejected", extra=["reason"], first=number))
            rows = enumerate(read_rows([screened], ["reason"]))
            for row, (document, extra) in self._progress(rows, number, "second pass"):
                cleaned, verdict = document, extra["reason"]
                if not verdict:
                    digest = text_digest(document.text)
                    cleaned, verdict = decide(document, row, digest, verdicts, self._heldout)
                    if verdict in SPLITS and digest in self._asked:
                        asked[digest.hex()] = verdict
                transforms.update(cleaned.transforms)
                if verdict in SPLITS:
                    writers[verdict].add(cleaned)
                    counts[verdict].add(cleaned)
                else:
                    aside.add(cleaned, reason=verdict)
                    rejected[verdict] += 1
        files = [path for writer in (*writers.values(), aside) for path in writer.files]
        facts = {split: split_counts.to_json() for split, split_counts in counts.items()}
        more = {"rejected": dict(rejected), "transforms": dict(transforms), "asked": asked}
        return Result(files, facts=facts | more | self.work.marker("screen", number).facts)

    def _commit(self, _number: int, _folder: Path) -> Result:
        """From here on there is no result until this one is whole."""
        metrics = self.tally.metrics()
        if not metrics["train"]["documents"]:
            raise StageError(
                "no document is left to train on", got=told(metrics["rejected"]), hint=advise(metrics["rejected"])
            )
        room = self.work.key("commit", 0, "room")  # for what is written before files of the result before make room
        self.store.put_bytes(room, bytes(_ROOM_BYTES))
        for key in sorted(self.store.list(f"{self.curated}units/"), reverse=True):
            if not key.startswith(self.work.prefix):  # of other inputs; what it says it has published goes now
                self.store.delete(key)
        self.store.delete(self.curated + "receipt.json")
        names = {f"{kind}-{task:05}.parquet" for kind in (*SPLITS, "rejected") for task in range(len(self.tasks))}
        for kind in (*SPLITS, "rejected"):
            for key in self.store.list(f"{self.curated}{kind}-"):
                if key.removeprefix(self.curated) not in names:
                    self.store.delete(key)
        self.store.delete(room)
        return Result()

    def _publish(self, number: int, _folder: Path) -> Result:
        for name in self.work.marker("decide", number).files:
            self.store.copy(self.work.key("decide", number, name), self.curated + name)
        return Result()

    @cached_property
    def tally(self) -> Tally:
        """What all tasks gave; to be asked for when all have been decided."""
        return Tally(self.work.marker("decide", task) for task in range(len(self.tasks)))

    def metrics(self) -> dict[str, Any]:
        """For the receipt."""
        rights: dict[str, Any] = {"unregistered_owners": dict(sorted(self._findings().unregistered.items()))}
        if self.rights.allowed is not None:
            rights["trainable"] = sorted(self.rights.allowed)
        return {"documents_in": self.num_documents, **self.tally.metrics(), **rights}

    def check_questions(self) -> tuple[list[Question], dict[str, int]]:
        """Questions whose split is true of the result, and counts of what was found."""
        return self.tally.check_questions(self.questions, self.rights.withdrawn_owners)

    def _drop_scratch(self) -> None:
        if self._raw_file:
            self._raw_file[1].unlink()
        shutil.rmtree(self.context.workdir / "near", ignore_errors=True)
