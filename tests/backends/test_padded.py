"""The padded backend: what it computes is what transformers computes of one example after the other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from sartor import names
from sartor.backends import forms, open_backend
from sartor.backends.padded import PaddedBackend
from sartor.data.pack import Steps, pack
from sartor.data.prepare import tokenise
from sartor.plan import Choice, ModelChoice, Plan
from sartor.texts import Texts, open_texts
from sartor.types import FIRST_LABEL, Batch, Chat, Form, Message, Source

from ..padded_bases import LABELS, rows, write_bert, write_t5  # noqa: TID252 - the tests are no package

NAMES = tuple(sorted(LABELS))
FORMS: tuple[Form, ...] = ("classifier", "embedder", "seq2seq")
OBJECTIVES = {form: names.resolve("objectives", "contrastive" if form == "embedder" else "sft") for form in FORMS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Form, Path]:
    bert, t5 = write_bert(tmp_path_factory.mktemp("bert")), write_t5(tmp_path_factory.mktemp("t5"))
    return {"classifier": bert, "embedder": bert, "seq2seq": t5}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    found: Form = request.param
    return found


@pytest.fixture
def decided(form: Form, folders: dict[Form, Path], make_plan: Callable[..., Plan]) -> Plan:
    return plan_of(form, folders, make_plan)


def plan_of(form: Form, folders: dict[Form, Path], make_plan: Callable[..., Plan], adapter: str = "full") -> Plan:
    model = ModelChoice(
        name="tiny",
        path=str(folders[form]),
        revision="local",
        digest="0",
        dtype="float32",
        template={},
        context=64,
        form=form,
        labels=NAMES if form == "classifier" else (),
    )
    settings = {"r": 4} if adapter == "lora" else {}
    return make_plan(
        model=model,
        backend="padded",
        adapter=Choice(name=adapter, settings=settings),
        family=adapter,
        learning_rate=3e-3,
    )


def renderer(plan: Plan) -> Texts:
    return open_texts(Path(plan.model.path), Path(plan.model.path), plan.model.form, plan.model.labels)


def chats(count: int) -> list[Chat]:
    return [
        Chat(
            source=Source(file="rows.jsonl", line=line),
            messages=(
                Message(role="user", content=row["prompt"]),
                Message(role="assistant", content=row["completion"] + " " + row["prompt"][:9]),
            ),
        )
        for line, row in enumerate(rows(count), start=1)
    ]


def examples(plan: Plan, count: int = 12) -> list[Any]:
    """Segments; a classifier's answers are labels, others are longer."""
    found = []
    for chat in chats(count):
        if plan.model.form == "classifier":
            last = chat.messages[-1].model_copy(update={"content": chat.target.split()[0]})
            chat = chat.model_copy(update={"messages": (*chat.prompt, last)})
        found.append(tokenise(chat, renderer(plan)).segments)
    return found


def plain(model: Any, plan: Plan, batch: Batch) -> torch.Tensor:
    """The objective's sum, by transformers itself, one example at a time and without padding."""
    starts = batch.offsets_S1
    if plan.model.form == "embedder":
        return plain_contrast(model, batch)
    total = torch.zeros(())
    for start, end in pairwise(starts.tolist()):
        tokens, weights = torch.from_numpy(batch.tokens_T[start:end]), torch.from_numpy(batch.weights_T[start:end])
        targets = torch.from_numpy(batch.targets_T[start:end])[weights != 0]
        if plan.model.form == "classifier":
            logits = model(input_ids=tokens[None]).logits
            targets = targets - FIRST_LABEL
        else:
            silent = tokens[weights == 0][None]
            logits = model(input_ids=silent, decoder_input_ids=tokens[weights != 0][None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return total


def plain_contrast(model: Any, batch: Batch) -> torch.Tensor:
    vectors: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for start, end in pairwise(batch.offsets_S1.tolist()):
        tokens, weights = torch.from_numpy(batch.tokens_T[start:end]), torch.from_numpy(batch.weights_T[start:end])
        for half, side in zip((tokens[weights == 0], tokens[weights != 0]), vectors, strict=True):
            mean = model(input_ids=half[None]).last_hidden_state[0].mean(0)
            side.append(mean / mean.norm())
    scores = torch.stack(vectors[0]) @ torch.stack(vectors[1]).T / 0.05
    alike = (torch.stack(vectors[1]) @ torch.stack(vectors[1]).T > 0.99999).fill_diagonal_(False)
    assert alike.any(), "some answers stand there twice, and are no negatives of each other"
    scores = scores.masked_fill(alike, float("-inf"))
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)), reduction="sum")


def forward(backend: PaddedBackend, form: Form, batches: list[Batch]) -> float:
    objective = OBJECTIVES[form]
    weight = sum(objective.weight(batch) for batch in batches)
    return sum(
        backend.forward_backward(batch, objective, objective.Config(), weight).loss for batch in batches
    ) / float(weight)


def test_padded_gradients_are_those_of_one_example_after_the_other(form: Form, decided: Plan) -> None:
    backend = open_backend(decided)
    assert isinstance(backend, PaddedBackend)
    (batch,) = pack([part for parts in examples(decided) for part in parts], micro_tokens=10**6)
    loss = forward(backend, form, [batch])
    torch.manual_seed(decided.seed)
    model = forms.open_model(decided.model.path, form, decided.model.labels, torch.float32).eval()
    wanted = plain(model, decided, batch) / OBJECTIVES[form].weight(batch)
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    theirs = {name: item.grad for name, item in model.named_parameters() if item.grad is not None}
    ours = {name: item.grad for name, item in backend._updates.masters.items() if item.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5)


def trained(plan: Plan, *, micro_tokens: int, steps: int = 20) -> list[float]:
    backend, data = open_backend(plan), Steps(examples(plan), batch_size=4, micro_tokens=micro_tokens, seed=1)
    losses = []
    for step in range(steps):
        losses.append(forward(backend, plan.model.form, next(data)))  # type: ignore[arg-type]
        backend.step(plan.adam(step))
    return losses


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("of", ["classifier", "seq2seq"])
def test_micro_batches_do_not_change_the_trajectory(
    of: Form, adapter: str, folders: dict[Form, Path], make_plan: Callable[..., Plan]
) -> None:
    plan = plan_of(of, folders, make_plan, adapter)
    whole, single = trained(plan, micro_tokens=10**6), trained(plan, micro_tokens=1)
    assert whole == pytest.approx(single, rel=1e-4)
    assert whole[-1] < whole[0]


def test_contrastive_steps_are_whole_and_learn(folders: dict[Form, Path], make_plan: Callable[..., Plan]) -> None:
    plan = plan_of("embedder", folders, make_plan)
    losses = trained(plan, micro_tokens=10**6)
    assert sum(losses[-3:]) < sum(losses[:3])


def test_it_goes_on_bit_by_bit(form: Form, decided: Plan, tmp_path: Path) -> None:
    def advance(backend: Any, data: Steps, steps: range) -> list[tuple[float, float]]:
        return [(forward(backend, form, next(data)), backend.step(decided.adam(step))) for step in steps]

    one, data = open_backend(decided), Steps(examples(decided), batch_size=4, micro_tokens=10**6, seed=1)
    advance(one, data, range(3))
    one.save(tmp_path)
    onward = advance(one, data, range(3, 6))
    other, data = open_backend(decided), Steps(examples(decided), batch_size=4, micro_tokens=10**6, seed=1)
    data.position = 3
    other.load(tmp_path)
    assert advance(other, data, range(3, 6)) == onward


def test_the_bases_own_dropout_is_off_and_an_adapters_is_on(
    folders: dict[Form, Path], make_plan: Callable[..., Plan]
) -> None:
    plan = plan_of("classifier", folders, make_plan, "lora")
    asked = plan.model_copy(update={"adapter": Choice(name="lora", settings={"r": 4, "dropout": 0.5})})
    model = open_backend(asked)._model  # type: ignore[attr-defined]
    on = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Dropout) and part.training}
    assert on
    assert all("lora_dropout" in name for name in on)
