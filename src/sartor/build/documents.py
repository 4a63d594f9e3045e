"""The verb: documents → chunks → examples, each chunk ending as examples or as a named failure in the ledger.

What a model answered is kept beside the result, in `<result>.answers/`, and never asked again: killed at any moment,
the same call goes on. The result is written at the end, in the order of the documents, whoever answered first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from sartor import durable
from sartor.ask import Answer, Asker, Question, Wish
from sartor.ask.reading import Unreadable
from sartor.ask.spending import Prices, spent
from sartor.build import AskingBuilder, Builder, ChunkBuilder, Problem, builder
from sartor.build.chunks import Chunk, Count, chunks
from sartor.data.folder import DataFolder, Making, card, making, open_folder, told
from sartor.errors import RecipeError
from sartor.recipe import Named, validated
from sartor.types import Document, Example, LedgerEntry, Source, digest_of

ANSWERS, PLACES = "answers.jsonl", "chunks.jsonl"

#: Documents that can be gone through more than once, such as `DataFolder.documents`.
Documents = Callable[[], Iterable[Document]]
#: Told how many chunks are answered.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Asking:
    """How a model is asked: its answers' longest length, how freely it answers, and what that costs."""

    max_tokens: int = 1024
    temperature: float = 0.3
    seed: int = 17
    prices: Prices = field(default_factory=Prices)


def build(
    documents: Documents,
    chosen: Named,
    path: Path,
    label: str,
    *,
    asker: Asker | None = None,
    asking: Asking | None = None,
    count: Count = len,
    progress: Progress | None = None,
) -> DataFolder:
    """Build examples from documents into a data folder.

    Args:
        documents: they are gone through twice.
        chosen: the builder and its settings.
        path: where the folder shall be; `label` names it in messages.
        asker: who is asked, for builders that ask; `asking` says how.
        count: the size of a text, where chunks are measured in tokens.
        progress: told how many chunks are answered.

    Raises:
        RecipeError: the builder or its settings are not known, or it needs somebody to ask.
        SartorError: whoever is asked takes no questions.
    """
    member = builder(chosen.name)
    config = validated(member.Config, chosen.settings, "build")
    if member.READS == "rows":
        raise RecipeError(f"the builder {chosen.name} reads rows of a table", hint="give it a file, not documents")
    if member.READS == "documents" and asker is None:
        raise RecipeError(f"the builder {chosen.name} asks a model", hint="say who is asked: `who: {url: …, model: …}`")
    job = _Job(chosen.name, member, config, asker.name if asker else "", asking or Asking(), count)
    answers: dict[str, Answer] = {}
    if asker is not None and member.READS == "documents":
        log = path.with_name(f"{path.name}.answers") / ANSWERS
        answers = _ask(job, documents, asker, log, progress)
    with making(path) as folder, durable.opened(folder.staging / PLACES) as places:
        writing = _Writing(job, answers, folder, places)
        for document in documents():
            writing.document(document)
        writing.finish()
    return open_folder(path, label)


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    member: Builder
    config: Any
    asked: str
    asking: Asking
    count: Count

    def chunks(self, document: Document) -> Iterator[Chunk]:
        return chunks(document, self.config.chunks, self.count)

    def key(self, chunk: Chunk) -> str:
        """The same as long as builder, settings, model and text are."""
        return digest_of(self.name, self.config, self.asked, chunk.document.id, chunk.number, chunk.text)[:24]

    def too_short(self, chunk: Chunk) -> bool:
        return len(chunk.text) < int(self.config.chunks.least)

    def examples(self, chunk: Chunk, answers: dict[str, Answer]) -> Iterator[Example | Problem]:
        """What becomes of a chunk."""
        if self.too_short(chunk):
            yield Problem("too_short", f"{len(chunk.text)} characters, at least {self.config.chunks.least}")
        elif self.member.READS == "chunks":
            yield from cast("ChunkBuilder", self.member).examples(chunk, self.config)
        else:
            yield from self._read(answers[self.key(chunk)], chunk)

    def _read(self, answer: Answer, chunk: Chunk) -> Iterator[Example | Problem]:
        if answer.failure:
            reason, _, detail = answer.failure.partition(": ")
            yield Problem(reason, detail)
            return
        try:
            yield from cast("AskingBuilder", self.member).read(answer.text, chunk, self.config)
        except Unreadable as error:
            yield (
                Problem("cut_off", "the answer broke off") if answer.truncated else Problem(error.reason, error.detail)
            )


def _ask(job: _Job, documents: Documents, asker: Asker, log: Path, progress: Progress | None) -> dict[str, Answer]:
    """All answers by their keys; what was answered before is not asked."""
    answers: dict[str, Answer] = {}
    for line in durable.read_lines(log):
        answers.setdefault(line["key"], Answer(**line))
    member = cast("AskingBuilder", job.member)

    def questions() -> Iterator[Question]:
        asked = set(answers)
        for document in documents():
            for chunk in job.chunks(document):
                key = job.key(chunk)
                if key not in asked and not job.too_short(chunk):
                    asked.add(key)
                    yield Question(key, member.question(chunk, job.config))

    asking = job.asking
    wish = Wish(asking.max_tokens, asking.temperature, asking.seed, member.schema(job.config))
    for answer in asker.ask(questions(), wish):
        durable.append(log, json.dumps(asdict(answer), ensure_ascii=False))
        answers[answer.key] = answer
        if progress:
            progress(len(answers))
    return answers


@dataclass(slots=True)
class _Writing:
    """Examples in the order of the documents; `places` says from which lines each of them was made."""

    job: _Job
    answers: dict[str, Answer]
    folder: Making
    places: IO[str]
    counts: Counter[str] = field(default_factory=Counter)
    seen: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def document(self, document: Document) -> None:
        self.counts["documents"] += 1
        before = self.counts["chunks"]
        for chunk in self.job.chunks(document):
            self.counts["chunks"] += 1
            self.used.add(self.job.key(chunk))
            for found in self.job.examples(chunk, self.answers):
                self._take(found, chunk.source, chunk)
        if self.counts["chunks"] == before:
            self._take(Problem("empty", "the document has no text"), Source(file=document.place, line=1))

    def finish(self) -> None:
        self.folder.balance(self.counts["made"])
        facts = [("made by", f"build {self.job.name}"), ("asked", self.job.asked or "nobody")]
        if self.answers:
            used = [answer for key, answer in self.answers.items() if key in self.used]
            facts.append(("asking took", spent(used).told(self.job.asking.prices)))
        amounts = {name: self.counts[name] for name in ("documents", "chunks")} | {"examples": self.folder.num_kept}
        self.folder.finish(card("Built data", facts, amounts | told(self.folder.counts)))

    def _take(self, found: Example | Problem, place: Source, chunk: Chunk | None = None) -> None:
        """Keep an example, or tell why there is none."""
        self.counts["made"] += 1
        if not isinstance(found, Problem) and found.digest in self.seen:
            found = Problem("duplicate", f"the same as {self.seen[found.digest]}")
        if isinstance(found, Problem):
            self.folder.tell(_dropped(place, found))
            return
        source = Source(file=f"build/{self.job.name}", line=self.folder.num_kept + 1, origin=place.origin)
        example = found.model_copy(update={"source": source})
        self.seen[example.digest] = example.id
        self.folder.keep(example)
        if chunk is not None:
            self.places.write(_place(example, chunk))


def _dropped(source: Source, problem: Problem) -> LedgerEntry:
    return LedgerEntry(
        action="dropped", file=source.file, line=source.line, reason=problem.reason, detail=problem.detail
    )


def _place(example: Example, chunk: Chunk) -> str:
    place = {
        "example": example.id,
        "document": chunk.document.id,
        "lines": [chunk.line, chunk.last_line],
        "headings": chunk.headings,
    }
    return json.dumps(place, ensure_ascii=False) + "\n"
