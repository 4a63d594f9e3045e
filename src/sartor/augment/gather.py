"""What came of a job, as a data folder: seeds and accepted examples, a ledger that names all else, and a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sartor.ask.spending import Prices
from sartor.augment.rounds import Outcome
from sartor.augment.work import Work
from sartor.data.folder import DataFolder, Making, card, making, open_folder, told
from sartor.errors import Refused
from sartor.types import LedgerEntry

UNSEEN = (
    "What nobody has seen has the form, the language and the length of the seeds and repeats nothing. Whether its "
    "answers are right, no check can tell: read some, or name a judge."
)


def gather(work: Work, path: Path, label: str) -> DataFolder:
    """Write the folder `path`, which messages call `label`. Rows in = seeds, rows that are none, and questions asked.

    Raises:
        Refused: some of it is not decided yet, or nothing was accepted.
    """
    tally = work.tally()
    if not tally.done:
        hint = f"sartor data review {work.folder}, then again"
        raise Refused(f"{tally.waiting} examples wait for a decision", hint=hint)
    if tally.asked and not tally.accepted:
        raise _nothing(work)
    seeds = work.all_seeds if work.config.with_seeds else ()
    with making(path) as folder:
        folder.keep(*seeds)
        folder.tell(*work.entries, *work.unsuitable())
        unread = folder.num_dropped
        for found in work.outcomes():
            if found.fate == "accepted" and found.example is not None:
                folder.keep(found.example)
                folder.tell(*_changes(found))
            else:
                folder.tell(_lost(work, found))
        folder.balance(tally.asked + len(seeds) + unread)
        folder.finish(_card(work, folder))
    return open_folder(path, label)


def _nothing(work: Work) -> Refused:
    """Nothing that was asked for was accepted: the reason that came up most often, and the way out."""
    reasons = Counter(_lost(work, found).reason for found in work.outcomes())
    ((reason, count),) = reasons.most_common(1)
    way_out = f"ask another model, with `rounds` above {len(work.rounds())}; what was answered is in {work.folder}"
    if all(each.lost for each in work.rounds()):
        way_out = f"run it again once {work.config.who.name} answers; what it said is in {work.folder}"
    message = f"nothing of the {reasons.total():,} examples asked for was accepted"
    return Refused(message, hint=f"mostly {reason} ({count:,}): {way_out}")


def _changes(found: Outcome) -> Iterator[LedgerEntry]:
    """What a reviewer made of it, if they edited it."""
    if found.example is not None and found.example != found.checked.example:
        source, detail = found.example.source, f"by {found.by}"
        yield LedgerEntry(action="changed", file=source.file, line=source.line, reason="edited", detail=detail)


def _lost(work: Work, found: Outcome) -> LedgerEntry:
    """Why something that was asked for is not there."""
    if found.fate == "failed":
        reason, _, detail = found.reason.partition(": ")
    elif found.by == "checks":
        reason, detail = found.reason, found.checked.problems[0].detail
    else:
        reason, detail = "reviewed", found.reason
    round_name = found.checked.key.partition("/")[0]
    return LedgerEntry(
        action="dropped",
        file=work.place(round_name),
        line=found.checked.number,
        reason=reason,
        detail=detail,
    )


def _card(work: Work, folder: Making) -> str:
    config, tally = work.config, work.tally()
    made, judged = work.spent()
    facts = [
        ("made by", f"augment, recipe {config.recipe.name}, rounds: {len(work.rounds())}"),
        ("seeds", f"{len(work.seeds):,}, " + ("which are part of it" if config.with_seeds else "not part of it")),
        ("accepted", f"{tally.accepted:,} of {config.wanted:,} wanted"),
        ("asked", config.who.name),
        ("asking took", made.told(config.who.prices)),
    ]
    if config.judge:
        facts += [("judged by", config.judge.name), ("judging took", judged.told(config.judge.prices or Prices()))]
    counts = {"asked": tally.asked, "accepted": tally.accepted, "rejected": tally.rejected, "failed": tally.failed}
    share = tally.accepted / tally.asked if tally.asked else 0.0
    unseen = sum(found.by == "all" for found in work.outcomes())
    notes = [f"{share:.0%} of what was asked for was accepted, {unseen:,} of it unseen."]
    if unseen and not config.judge:
        notes.append(UNSEEN)
    return card("Augmented data", facts, counts | told(folder.counts), notes)
