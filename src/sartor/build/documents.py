"""The verb: documents → chunks → examples, each chunk ending as examples or as a named failure in the ledger.

What a model answered is kept in a folder beside the result, and never asked again: killed at any moment,
the same call goes on, and what failed is tried again. The result is written at the end, in the order of the documents,
whoever answered first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from pydantic import Field

from sartor import durable
from sartor.ask import Answer, Asker, Question, Wish
from sartor.ask.opening import Who
from sartor.ask.reading import Unreadable
from sartor.ask.spending import spent
from sartor.build import AskingBuilder, Builder, ChunkBuilder, Problem, builder
from sartor.build.chunks import Chunk, Count, chunks
from sartor.data.folder import DataFolder, Making, card, making, open_folder, told
from sartor.errors import RecipeError
from sartor.recipe import Named, validated
from sartor.types import Document, Example, Frozen, LedgerEntry, Progress, Source, digest_of

#: What stands in the place of an answer that whoever was asked has lost.
NO_ANSWER = Answer("", failure="no_answer: whoever was asked said nothing")
ANSWERS, PLACES = "answers.jsonl", "chunks.jsonl"

#: Documents that can be gone through more than once, such as `DataFolder.documents`.
Documents = Callable[[], Iterable[Document]]


class Config(Frozen):
    """How examples are built: a step `build` of `data.make`, and of `sartor data build`."""

    builder: Named = Field(default=Named(name="qa"), description="What is built: a builder, with its settings.")
    who: Who = Field(
        default_factory=Who, description="Who is asked, by builders that ask: a model here, or an endpoint."
    )
    model: str | None = Field(default=None, description="The base whose tokens are counted, for chunks in tokens.")
    max_tokens: int = Field(default=1024, ge=1, le=32_768, description="The longest answer, in tokens.")
    temperature: float = Field(default=0.3, ge=0, le=2, description="How freely it is answered.")
    seed: int = Field(default=17, ge=0, description="Of all that is drawn.")

    @property
    def member(self) -> Builder:
        return builder(self.builder.name)

    @property
    def settings(self) -> Any:
        """Those of the builder.

        Raises:
            RecipeError: the builder or one of its settings is not known.
        """
        return validated(self.member.Config, self.builder.settings, "build.builder")

    @property
    def asks(self) -> bool:
        """Whether somebody has to be asked."""
        return self.member.READS == "documents"


def build(
    documents: Documents,
    config: Config,
    path: Path,
    label: str,
    *,
    asker: Asker | None = None,
    answers: Path | None = None,
    count: Count | None = None,
    progress: Progress | None = None,
) -> DataFolder:
    """Build examples from documents into a data folder.

    Args:
        documents: they are gone through more than once.
        config: the builder, its settings, and how it asks.
        path: where the folder shall be; `label` names it in messages.
        asker: who is asked, where `config.asks`.
        answers: a folder for what was answered, which other builds may share; `<path>.answers` where none is given.
        count: the size of a text, where chunks are measured in tokens.
        progress: told how many chunks are answered, and of how many.

    Raises:
        RecipeError: the builder or its settings are not known, or it needs somebody to ask or a model that counts.
        SartorError: whoever is asked takes no questions.
    """
    name, member = config.builder.name, config.member
    if member.READS == "rows":
        raise RecipeError(f"the builder {name} reads rows of a table", hint="give it a file, not documents")
    settings = config.settings
    if config.asks and asker is None:
        raise RecipeError(f"the builder {name} asks a model", hint="say who is asked: `who: {url: …, model: …}`")
    if settings.chunks.unit == "tokens" and count is None:
        raise RecipeError("chunks are measured in tokens, and no model is named", hint="name one: `model: …`")
    job = _Job(config, member, settings, asker.name if config.asks and asker else "", count or len)
    answered: dict[str, Answer] = {}
    if config.asks and asker is not None:
        log = (answers or path.with_name(f"{path.name}.answers")) / ANSWERS
        answered = _ask(job, documents, asker, log, progress)
    with making(path) as folder, durable.opened(folder.staging / PLACES) as places:
        writing = _Writing(job, answered, folder, places)
        for document in documents():
            writing.document(document)
        writing.finish()
    return open_folder(path, label)


@dataclass(frozen=True, slots=True)
class _Job:
    """The builder `member` with its `settings`; `asked`: who is, if anybody."""

    config: Config
    member: Builder
    settings: Any
    asked: str
    count: Count

    @property
    def name(self) -> str:
        return self.config.builder.name

    def chunks(self, document: Document) -> Iterator[Chunk]:
        return chunks(document, self.settings.chunks, self.count)

    def key(self, chunk: Chunk) -> str:
        """The same as long as the text is, and all that decides what is asked about it, of whom and how."""
        config = self.config
        how = (self.asked, config.who.decides, config.max_tokens, config.temperature, config.seed)
        return digest_of(self.name, self.settings, *how, chunk.document.id, chunk.number, chunk.text)[:24]

    def too_short(self, chunk: Chunk) -> bool:
        return len(chunk.text) < int(self.settings.chunks.least)

    def examples(self, chunk: Chunk, answers: dict[str, Answer]) -> Iterator[Example | Problem]:
        """What becomes of a chunk."""
        if self.too_short(chunk):
            yield Problem("too_short", f"{len(chunk.text)} characters, at least {self.settings.chunks.least}")
        elif self.member.READS == "chunks":
            yield from cast("ChunkBuilder", self.member).examples(chunk, self.settings)
        else:
            yield from self._read(answers.get(self.key(chunk), NO_ANSWER), chunk)

    def _read(self, answer: Answer, chunk: Chunk) -> Iterator[Example | Problem]:
        if answer.failure:
            reason, _, detail = answer.failure.partition(": ")
            yield Problem(reason, detail)
            return
        try:
            yield from cast("AskingBuilder", self.member).read(answer.text, chunk, self.settings)
        except Unreadable as error:
            cut_off = Problem("cut_off", "the answer broke off")
            yield cut_off if answer.truncated else Problem(error.reason, error.detail)


def _ask(job: _Job, documents: Documents, asker: Asker, log: Path, progress: Progress | None) -> dict[str, Answer]:
    """The answers by their keys. What was answered before is not asked; what failed before is tried again."""
    asking = {job.key(chunk) for document in documents() for chunk in job.chunks(document) if not job.too_short(chunk)}
    answers = {line["key"]: Answer(**line) for line in durable.read_lines(log) if line["key"] in asking}
    done = {key for key, answer in answers.items() if not answer.failure}
    member = cast("AskingBuilder", job.member)

    def questions() -> Iterator[Question]:
        left = asking - done
        for document in documents():
            for chunk in job.chunks(document):
                key = job.key(chunk)
                if key in left:
                    left.remove(key)
                    yield Question(key, member.question(chunk, job.settings))

    config = job.config
    wish = Wish(config.max_tokens, config.temperature, config.seed, member.schema(job.settings))
    for answer in asker.ask(questions(), wish):
        durable.append(log, json.dumps(asdict(answer), ensure_ascii=False))
        answers[answer.key] = answer
        done.add(answer.key)
        if progress:
            progress(len(done), len(asking))
    return answers


@dataclass(slots=True)
class _Writing:
    """Examples in the order of the documents; `places` says from which lines each of them was made.

    `numbers`: of the examples of each document, which are their lines.
    """

    job: _Job
    answers: dict[str, Answer]
    folder: Making
    places: IO[str]
    counts: Counter[str] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)
    seen: dict[str, str] = field(default_factory=dict)

    def document(self, document: Document) -> None:
        self.counts["documents"] += 1
        before = self.counts["chunks"]
        for chunk in self.job.chunks(document):
            self.counts["chunks"] += 1
            for found in self.job.examples(chunk, self.answers):
                self._take(found, chunk.source, chunk)
        if self.counts["chunks"] == before:
            self._take(Problem("empty", "the document has no text"), Source(file=document.place, line=1))

    def finish(self) -> None:
        self.folder.balance(self.counts["made"])
        facts = [("made by", f"build {self.job.name}"), ("asked", self.job.asked or "nobody")]
        if self.answers:
            facts.append(("asking took", spent(self.answers.values()).told(self.job.config.who.prices)))
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
        self.numbers[place.file] += 1
        source = Source(file=f"build/{self.job.name}/{place.file}", line=self.numbers[place.file], origin=place.origin)
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
