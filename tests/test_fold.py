"""Folding: equal beginnings once, every segment spelt by its path, and the same gradients to the last digits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.data.fold import NOWHERE, Folded, arrange, fold, num_unique
from sartor.data.pack import Segment, pack
from sartor.types import Batch

#: Few letters and few beginnings, so that segments meet: in a prefix, in a whole, in everything.
LETTERS = st.lists(st.integers(1, 3), max_size=10)
BEGINNINGS = st.sampled_from([[], [1, 2], [2] * 9, [2] * 9 + [1, 3, 3, 1], [3, 1] * 7])
WEIGHTS = st.lists(st.sampled_from([0.0, 1.0, -0.5]), min_size=40, max_size=40)


def visible_UU(folded: Folded) -> np.ndarray:
    """Which token (row) may see which (column): those of its own node and of the nodes above, none after itself."""
    nodes = range(len(folded.parents_P))
    above_PP = np.eye(len(nodes), dtype=bool)
    for node, parent in zip(nodes, folded.parents_P.tolist(), strict=True):
        if parent != NOWHERE:
            above_PP[node] |= above_PP[parent]
    node_U = np.repeat(nodes, np.diff(folded.offsets_P1))
    visible: np.ndarray = above_PP[node_U[:, None], node_U] & (folded.positions_U <= folded.positions_U[:, None])
    return visible


@st.composite
def sequences(draw: Any) -> Segment:
    ids = [*draw(BEGINNINGS), *draw(LETTERS), 1, draw(st.integers(1, 3))]
    weights = draw(st.one_of(WEIGHTS, st.just([0.0] * 40), st.just([0.0, 1.0] * 20), st.just([1.0] * 40)))
    return Segment("", tuple(ids[:-1]), tuple(ids[1:]), tuple(weights[: len(ids) - 1]))


def named(items: list[Segment]) -> list[Segment]:
    return [Segment(f"row {row}", item.tokens, item.targets, item.weights) for row, item in enumerate(items)]


SEGMENTS = st.lists(sequences(), min_size=1, max_size=8).map(named)


def written(ids: list[int], *, prompt: int, weight: float = 1.0, row: str = "row") -> Segment:
    """A segment whose targets from the token with number `prompt` on are trained."""
    weights = tuple(weight if place + 1 >= prompt else 0.0 for place in range(len(ids) - 1))
    return Segment(row, tuple(ids[:-1]), tuple(ids[1:]), weights)


def together(*items: Segment) -> Batch:
    """One batch, with the segments in the order given."""
    parts = [batch for item in items for batch in pack([item], micro_tokens=1)]
    return Batch(
        tokens_T=np.concatenate([part.tokens_T for part in parts]),
        positions_T=np.concatenate([part.positions_T for part in parts]),
        targets_T=np.concatenate([part.targets_T for part in parts]),
        weights_T=np.concatenate([part.weights_T for part in parts]),
        offsets_S1=np.cumsum([0, *(part.num_tokens for part in parts)]).astype(np.int32),
        rows=tuple(item.row for item in items),
    )


def kept(item: Segment) -> int:
    """Tokens up to the last supervised one."""
    return max((place + 1 for place, weight in enumerate(item.weights) if weight), default=0)


def labels(item: Segment) -> list[tuple[int, int, bool]]:
    supervised = [weight != 0 for weight in item.weights]
    return list(zip(item.tokens, item.targets, supervised, strict=True))[: kept(item)]


def spelt(folded: Folded, place: int) -> list[tuple[int, int]]:
    """Tokens and positions from the root down to a place."""
    node = int(np.searchsorted(folded.offsets_P1, place, side="right")) - 1
    found: list[int] = []
    end = place + 1
    while node != NOWHERE:
        found = [*range(folded.offsets_P1[node], end), *found]
        node = int(folded.parents_P[node])
        end = int(folded.offsets_P1[node + 1])
    return [(int(folded.tokens_U[index]), int(folded.positions_U[index])) for index in found]


@settings(deadline=None)
@given(items=SEGMENTS, shortest=st.integers(1, 12))
def test_every_token_is_found_again_and_every_path_spells_its_segment(items: list[Segment], shortest: int) -> None:
    batch = together(*items)
    folded = fold(batch, shortest=shortest)
    has = folded.places_T != NOWHERE
    assert np.array_equal(folded.tokens_U[folded.places_T[has]], batch.tokens_T[has])
    assert np.array_equal(folded.positions_U[folded.places_T[has]], batch.positions_T[has])
    assert has[batch.weights_T != 0].all(), "a supervised token is always computed"
    assert np.array_equal(folded.places_T[folded.sources_U], np.arange(folded.num_tokens))
    alone = not any(kept(item) for item in items)
    for index, (item, (start, end)) in enumerate(zip(items, pairwise(batch.offsets_S1.tolist()), strict=True)):
        length = kept(item) if not alone else int(index == 0)
        places = folded.places_T[start:end]
        assert (places[:length] != NOWHERE).all()
        assert (places[length:] == NOWHERE).all()
        for depth in range(length):
            wanted = [(token, position) for position, token in enumerate(item.tokens[: depth + 1])]
            assert spelt(folded, int(places[depth])) == wanted


@settings(deadline=None)
@given(items=SEGMENTS, shortest=st.integers(1, 12))
def test_the_forest_is_in_order_and_as_small_as_its_shortest_run_allows(items: list[Segment], shortest: int) -> None:
    batch = together(*items)
    folded = fold(batch, shortest=shortest)
    lengths = np.diff(folded.offsets_P1)
    assert folded.offsets_P1[0] == 0
    assert folded.offsets_P1[-1] == folded.num_tokens
    assert (lengths > 0).all()
    assert (folded.parents_P < np.arange(len(lengths))).all(), "a parent stands before its children"
    parents, branches = np.unique(folded.parents_P[folded.parents_P != NOWHERE], return_counts=True)
    assert (lengths[parents] >= shortest).all()
    assert (branches >= 2).all()
    smallest = {tuple(labels(item)[: end + 1]) for item in items for end in range(kept(item))}
    most = max(1, sum(kept(item) for item in items))
    assert max(1, len(smallest)) <= folded.num_tokens <= most <= batch.num_tokens
    assert shortest > 1 or folded.num_tokens == max(1, len(smallest))
    assert folded.num_tokens + folded.num_shared + folded.num_trimmed == batch.num_tokens
    assert num_unique(arrange(batch), shortest=shortest) == folded.num_tokens


@settings(deadline=None)
@given(items=SEGMENTS, shortest=st.integers(1, 12))
def test_places_with_one_number_agree_in_target_and_supervision(items: list[Segment], shortest: int) -> None:
    batch = together(*items)
    folded = fold(batch, shortest=shortest)
    for place in range(folded.num_tokens):
        same = folded.places_T == place
        assert len(set(batch.targets_T[same].tolist())) == 1
        assert len(set((batch.weights_T[same] != 0).tolist())) == 1


def test_a_prompt_for_all_and_one_for_some_by_hand() -> None:
    first = written([1, 2, 3, 4, 5, 6], prompt=4, row="a")
    second = written([7, 8], prompt=1, row="b")
    third = written([1, 2, 3, 4, 5, 9], prompt=4, weight=0.25, row="c")
    fourth = written([1, 2, 8, 8], prompt=3, row="d")
    folded = fold(together(first, second, third, fourth), shortest=1)
    # The fork is one token early each time: the last shared token has two targets.
    assert folded.tokens_U.tolist() == [1, 2, 3, 4, 5, 5, 2, 8, 7]
    assert folded.positions_U.tolist() == [0, 1, 2, 3, 4, 4, 1, 2, 0]
    assert folded.offsets_P1.tolist() == [0, 1, 4, 5, 6, 8, 9]
    assert folded.parents_P.tolist() == [-1, 0, 1, 1, 0, -1]
    assert folded.places_T.tolist() == [0, 1, 2, 3, 4, 8, 0, 1, 2, 3, 5, 0, 6, 7]
    assert (folded.num_tokens, folded.num_shared, folded.num_trimmed) == (9, 5, 0)
    assert [array.dtype for array in (folded.tokens_U, folded.positions_U, folded.places_T)] == [np.int64] * 3
    assert (folded.offsets_P1.dtype, folded.parents_P.dtype) == (np.int32, np.int32)


def test_a_batch_that_shares_nothing_keeps_its_order() -> None:
    starts = [30, 10, 20, 10, 30]  # one token alike is not worth a node, and must not bring its segments together
    items = [written([start, *range(row * 50, row * 50 + 30)], prompt=5) for row, start in enumerate(starts)]
    batch = together(*items)
    folded = fold(batch)
    assert np.array_equal(folded.places_T, np.arange(batch.num_tokens))
    assert np.array_equal(folded.tokens_U, batch.tokens_T)
    assert np.array_equal(folded.offsets_P1, batch.offsets_S1)
    assert folded.parents_P.tolist() == [NOWHERE] * 5


def test_a_conversation_that_another_goes_on_with_costs_nothing() -> None:
    long = written(list(range(60)), prompt=10, row="long")
    short = written(list(range(40)), prompt=10, row="short")
    folded = fold(together(short, long, short))
    assert folded.num_tokens == 59
    assert folded.parents_P.tolist() == [NOWHERE]
    assert folded.places_T.tolist() == [*range(39), *range(59), *range(39)]


def test_what_stands_after_the_last_supervised_token_is_not_computed() -> None:
    ids = [5, 6, 7, 8, 9, 9]
    item = Segment("a", tuple(ids[:-1]), tuple(ids[1:]), (0.0, -1.0, 0.0, 0.0, 0.0))
    batch = together(item)
    folded = fold(batch)
    assert folded.tokens_U.tolist() == [5, 6]
    assert folded.places_T.tolist() == [0, 1, -1, -1, -1]
    assert (folded.num_shared, folded.num_trimmed) == (0, 3)
    assert batch.num_tokens == 5, "the batch counts them as before"


def test_a_batch_without_supervision_still_has_a_forward() -> None:
    empty = Segment("empty", (), (), ())
    untrained = Segment("a", (4, 5), (5, 6), (0.0, 0.0))
    folded = fold(together(empty, untrained, untrained))
    assert folded.tokens_U.tolist() == [4]
    assert folded.places_T.tolist() == [0, -1, -1, -1]


def test_an_untrained_copy_of_a_trained_token_stands_apart() -> None:
    trained, context = written([1, 2, 3, 4, 5], prompt=2), written([1, 2, 3, 4, 5], prompt=3)
    folded = fold(together(trained, context), shortest=1)
    assert folded.places_T.tolist() == [0, 1, 2, 3, 0, 4, 5, 6]


def test_a_token_sees_its_own_run_and_those_above_and_nothing_after_itself() -> None:
    folded = Folded(
        tokens_U=np.zeros(6, dtype=np.int64),
        positions_U=np.array([0, 1, 2, 3, 2, 0]),
        offsets_P1=np.array([0, 2, 4, 5, 6], dtype=np.int32),
        parents_P=np.array([-1, 0, 0, -1], dtype=np.int32),
        places_T=np.arange(6),
    )
    wanted = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert visible_UU(folded).astype(int).tolist() == wanted


# ---- the same mathematics --------------------------------------------------------------------------------------------

torch: Any = pytest.importorskip("torch")


def tree_attention(
    module: Any, query_1HUD: Any, key_1GUD: Any, value_1GUD: Any, mask_11UU: Any, *, scaling: float, **_: Any
) -> tuple[Any, None]:
    """Attention by an explicit mask, all of it in the type of its inputs (transformers' own rounds to fp32)."""
    key, value = (part.repeat_interleave(module.num_key_value_groups, dim=1) for part in (key_1GUD, value_1GUD))
    scores = (query_1HUD @ key.transpose(2, 3) * scaling).masked_fill(~mask_11UU, float("-inf"))
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2), None


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A random Llama in fp64 throughout."""
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

    AttentionInterface.register("tree_twin", tree_attention)
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="tree_twin",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        layer.input_layernorm = torch.nn.RMSNorm(32, eps=1e-6)
        layer.post_attention_layernorm = torch.nn.RMSNorm(32, eps=1e-6)
    model.model.norm = torch.nn.RMSNorm(32, eps=1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # random weights of 0.02 give almost flat logits: gradients would say little
    return model.double().eval()


def conversations() -> list[Segment]:
    """A system prompt for all, few-shot blocks for some, a history that goes on, a copy, a stranger and a tail."""
    draw = np.random.default_rng(4)
    system, shots, turn, *own = (draw.integers(1, 64, count).tolist() for count in (20, 18, 17, 9, 6, 12, 8, 25))
    made = [
        written([*system, *shots, *own[0]], prompt=40),
        written([*system, *shots, *own[1]], prompt=39, weight=0.5),
        written([*system, *turn], prompt=24, weight=-1.5),
        written([*system, *turn, *own[2]], prompt=24),
        written([*system, *own[3]], prompt=24),
        written([*system, *shots, *own[0]], prompt=40, weight=2.0),
        written(own[4], prompt=3),
    ]
    cut = made[3]
    return [*made, Segment("tail", cut.tokens, cut.targets, (*cut.weights[:30], *[0.0] * (len(cut.weights) - 30)))]


def logprobs(logits: Any, targets: np.ndarray) -> Any:
    return torch.log_softmax(logits, dim=-1).gather(-1, torch.from_numpy(targets)[:, None])[:, 0]


def logits_of(model: Any, tokens: np.ndarray, positions: np.ndarray, visible: np.ndarray) -> Any:
    return model(
        input_ids=torch.from_numpy(tokens)[None],
        position_ids=torch.from_numpy(positions)[None],
        attention_mask=torch.from_numpy(visible)[None, None],
        use_cache=False,
    ).logits[0]


def folded_logits(model: Any, folded: Folded) -> Any:
    """Of the unique tokens (U, vocabulary)."""
    return logits_of(model, folded.tokens_U, folded.positions_U, visible_UU(folded))


def alone_logits(model: Any, item: Segment) -> Any:
    length = len(item.tokens)
    return logits_of(model, np.array(item.tokens), np.arange(length), np.tri(length, dtype=bool))


@pytest.mark.parametrize("shortest", [1, 8, 16, 1000])
def test_logits_and_gradients_equal_those_of_one_by_one_forwards(tiny: Any, shortest: int) -> None:
    items = conversations()
    batch = together(*items)
    folded = fold(batch, shortest=shortest)
    assert folded.num_tokens < batch.num_tokens - (120 if shortest <= 16 else 0)

    tiny.zero_grad()
    plain = []
    for item in items:
        logits = alone_logits(tiny, item)
        plain.append(logits.detach())
        (logprobs(logits, np.array(item.targets)) * torch.tensor(item.weights)).sum().backward()
    wanted = [parameter.grad.clone() for parameter in tiny.parameters()]

    tiny.zero_grad()
    supervised = np.flatnonzero(batch.weights_T)
    logits_NV = folded_logits(tiny, folded)[torch.from_numpy(folded.places_T[supervised])]
    weights_N = torch.from_numpy(batch.weights_T[supervised]).double()
    (logprobs(logits_NV, batch.targets_T[supervised]) * weights_N).sum().backward()

    assert float((logits_NV.detach() - torch.cat(plain)[supervised]).abs().max()) < 1e-9
    for parameter, gradient in zip(tiny.parameters(), wanted, strict=True):
        assert float((parameter.grad - gradient).abs().max()) < 1e-9


def test_a_wrong_parent_is_noticed(tiny: Any) -> None:
    """The planted fault: the comparison above can fail."""
    folded = fold(together(*conversations()))
    orphaned = Folded(
        tokens_U=folded.tokens_U,
        positions_U=folded.positions_U,
        offsets_P1=folded.offsets_P1,
        parents_P=np.full_like(folded.parents_P, NOWHERE),
        places_T=folded.places_T,
    )
    with torch.no_grad():
        assert float((folded_logits(tiny, folded) - folded_logits(tiny, orphaned)).abs().max()) > 1e-3
