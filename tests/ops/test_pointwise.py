"""The kernels between the products against their plain twins in fp64, and those against autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from sartor.ops import native, pointwise
from sartor.ops.pointwise import Activation, Native, Plain, Pointwise

from .conftest import COUNTS, ELEMENTS, ONE_ROUNDING, Made

WIDTH, INNER, VOCABULARY, HEAD = 64, 96, 160, 32
KINDS: tuple[Activation, ...] = ("silu", "gelu_tanh")
Results = dict[str, torch.Tensor]


def rms_norm(kernels: Pointwise, made: Made, count: int) -> Results:
    out_TD, inverse_T = made.unset(WIDTH), made.unset_wide(count)
    kernels.rms_norm(made.wide(count, WIDTH), made.wide(WIDTH), 1e-5, out_TD, inverse_T)
    return {"out": out_TD, "inverse": inverse_T}


def rms_norm_backward(kernels: Pointwise, made: Made, count: int) -> Results:
    stream_TD, gradient_TD = made.wide(count, WIDTH), made.unset_wide(count, WIDTH)
    inverse_T = stream_TD.square().mean(1).rsqrt()
    kernels.rms_norm_backward(
        made.rows(WIDTH), stream_TD, made.wide(WIDTH), inverse_T, made.wide(count, WIDTH), gradient_TD
    )
    return {"gradient": gradient_TD}


def add(kernels: Pointwise, made: Made, count: int) -> Results:
    out_TD = made.unset_wide(count, WIDTH)
    kernels.add(made.wide(count, WIDTH), made.rows(WIDTH), out_TD)
    return {"out": out_TD}


def rotate(kernels: Pointwise, made: Made, count: int) -> Results:
    """Half of each head only, as in families with a partial rotation."""
    forth_TC, back_TC = made.rows(3 * HEAD), made.rows(3 * HEAD)
    cosine_TR, sine_TR = made.wide(count, 16), made.wide(count, 16)
    kernels.rotate(forth_TC, HEAD, cosine_TR, sine_TR, 1.0)
    kernels.rotate(back_TC, HEAD, cosine_TR, sine_TR, -1.0)
    return {"forth": forth_TC, "back": back_TC}


def head_norm(kernels: Pointwise, made: Made, count: int) -> Results:
    to_TC, inverse = made.unset(3 * HEAD), made.unset_wide(count, 3)
    kernels.head_norm(made.rows(3 * HEAD, room=80), to_TC, HEAD, made.wide(HEAD), 1e-6, inverse)
    return {"to": to_TC, "inverse": inverse}


def head_norm_backward(kernels: Pointwise, made: Made, count: int) -> Results:
    gradient_TC, from_TC = made.rows(3 * HEAD), made.rows(3 * HEAD, room=80)
    inverse = from_TC.reshape(count, 3, HEAD).double().square().mean(2).rsqrt().to(made.wide(1).dtype)
    kernels.head_norm_backward(gradient_TC, from_TC, HEAD, made.wide(HEAD), inverse)
    return {"gradient": gradient_TC}


def gated(kernels: Pointwise, made: Made, count: int) -> Results:
    results = {kind: made.unset(INNER) for kind in KINDS}
    for kind in KINDS:
        kernels.gated(kind, made.rows(2 * INNER, scale=3.0, room=0), results[kind])
    return {str(kind): result for kind, result in results.items()}


def gated_backward(kernels: Pointwise, made: Made, count: int) -> Results:
    results: Results = {}
    for kind in KINDS:
        both_T2F, product_TF = made.rows(2 * INNER, scale=3.0, room=0), made.unset(INNER)
        kernels.gated_backward(kind, made.rows(INNER), both_T2F, product_TF)
        results |= {f"{kind} both": both_T2F, f"{kind} product": product_TF}
    return results


def loss_tile(kernels: Pointwise, made: Made, count: int) -> Results:
    logits_NV, logprobs_N = made.rows(VOCABULARY, scale=4.0, room=0), made.unset_wide(count)
    targets_N = torch.arange(count, device=logits_NV.device) * 7 % VOCABULARY
    kernels.loss_tile(logits_NV, targets_N, logprobs_N)
    return {"slope": logits_NV, "logprobs": logprobs_N}


CASES: tuple[Callable[[Pointwise, Made, int], Results], ...] = (
    rms_norm, rms_norm_backward, add, rotate, head_norm, head_norm_backward, gated, gated_backward, loss_tile,
)  # fmt: skip


def kernels_of(element: torch.dtype) -> Native:
    found = pointwise.pointwise(element, 16)
    assert isinstance(found, Native), native.problem()
    return found


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """fp32: to its last digits; bf16: each value is the exact one, rounded once."""
    if found.dtype == torch.float32:
        return torch.allclose(found.double(), wanted, rtol=3e-6, atol=3e-6 * float(wanted.abs().max()))
    return torch.allclose(found.double(), wanted, rtol=ONE_ROUNDING, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("element", ELEMENTS)
def test_a_kernel_gives_its_twins_numbers_in_strided_rows(
    case: Callable[[Pointwise, Made, int], Results], count: int, element: torch.dtype
) -> None:
    ours, twin = Made(element, count, exact=False), Made(element, count, exact=True)
    found, wanted = case(kernels_of(element), ours, count), case(Plain(), twin, count)
    for name in wanted:
        assert close(found[name], wanted[name]), name
    assert ours.untouched, "it wrote beside its rows"
    assert twin.untouched


@pytest.mark.usefixtures("plainer_processor")
def test_a_kernel_gives_its_twins_numbers_on_plainer_processors() -> None:
    for case in CASES:
        for element in ELEMENTS:
            test_a_kernel_gives_its_twins_numbers_in_strided_rows(case, 17, element)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("element", ELEMENTS)
def test_the_twin_in_the_models_own_type_is_near_the_exact_one(
    case: Callable[[Pointwise, Made, int], Results], element: torch.dtype
) -> None:
    """It may round between its steps, so a bf16 value is good to a few roundings."""
    found, wanted = (case(Plain(), Made(element, 17, exact=exact), 17) for exact in (False, True))
    for name in wanted:
        error = float((found[name].double() - wanted[name]).norm() / wanted[name].norm())
        assert error < (1e-6 if element == torch.float32 else 4 * ONE_ROUNDING), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("element", ELEMENTS)
def test_gates_far_out_are_open_or_shut(kind: Activation, element: torch.dtype) -> None:
    both_T2F = torch.ones(4, 32).to(element)
    both_T2F[:, :16] = torch.tensor([100.0, -100.0, 0.0, -30.0])[:, None]
    for kernels in (kernels_of(element), Plain()):
        out_TF, product_TF = torch.empty(4, 16, dtype=element), torch.empty(4, 16, dtype=element)
        kernels.gated(kind, both_T2F, out_TF)
        slopes_T2F = both_T2F.clone()
        kernels.gated_backward(kind, torch.ones(4, 16, dtype=element), slopes_T2F, product_TF)
        assert torch.equal(out_TF, product_TF)
        assert out_TF[:, 0].tolist() == pytest.approx([100.0, 0.0, 0.0, 0.0], abs=1e-9)
        assert slopes_T2F[:, 0].tolist() == pytest.approx([1.0, 0.0, 0.5, 0.0], abs=1e-9)
        assert torch.equal(slopes_T2F[:, 16:], out_TF)


@pytest.mark.parametrize("element", ELEMENTS)
def test_a_number_that_is_none_is_not_lost(element: torch.dtype) -> None:
    both_T2F = torch.ones(1, 32).to(element)
    both_T2F[0, 5] = float("nan")
    for kernels in (kernels_of(element), Plain()):
        out_TF = torch.empty(1, 16, dtype=element)
        kernels.gated("silu", both_T2F, out_TF)
        assert out_TF.isnan().nonzero().tolist() == [[0, 5]]
        logits_NV, logprobs_N = both_T2F.clone(), torch.empty(1)
        kernels.loss_tile(logits_NV, torch.tensor([3]), logprobs_N)
        assert logprobs_N.isnan().all()


@pytest.mark.parametrize("element", ELEMENTS)
def test_logits_of_any_size_have_a_loss(element: torch.dtype) -> None:
    logits_NV = torch.zeros(3, 32).to(element)
    logits_NV[0, 3], logits_NV[1, 3] = 10_000.0, -10_000.0  # certain, and certainly not; the last row: all equal
    for kernels in (kernels_of(element), Plain()):
        slope_NV, logprobs_N = logits_NV.clone(), torch.empty(3)
        kernels.loss_tile(slope_NV, torch.tensor([3, 3, 3]), logprobs_N)
        far = float(logits_NV[1, 3]) - float(torch.tensor(31.0).log())
        assert logprobs_N.tolist() == pytest.approx([0.0, far, -float(torch.tensor(32.0).log())], rel=1e-5, abs=1e-6)
        assert slope_NV[0].abs().max() == 0
        assert float(slope_NV[1, 3]) == 1.0
        assert slope_NV[2].tolist() == [-1 / 32] * 3 + [31 / 32] + [-1 / 32] * 28


@pytest.mark.parametrize("target", [-1, 32, 1 << 40])
def test_a_target_outside_of_the_vocabulary_is_refused(target: int) -> None:
    logits_NV = torch.zeros(2, 32)
    with pytest.raises(IndexError, match=f"index {target} is out of range: there are 32"):
        kernels_of(torch.float32).loss_tile(logits_NV, torch.tensor([3, target]), torch.empty(2))
    assert not logits_NV.any()


@pytest.mark.parametrize("element", ELEMENTS)
def test_a_row_of_zeros_has_a_norm(element: torch.dtype) -> None:
    stream_TD, out_TD, inverse_T = torch.zeros(2, 16), torch.empty(2, 16, dtype=element), torch.empty(2)
    kernels_of(element).rms_norm(stream_TD, torch.ones(16), 1e-6, out_TD, inverse_T)
    assert out_TD.abs().max() == 0
    assert inverse_T.tolist() == pytest.approx([1000.0, 1000.0])


def test_no_rows_are_no_work() -> None:
    for element in ELEMENTS:
        for case in CASES:
            assert all(len(item) == 0 for item in case(kernels_of(element), Made(element, 0, exact=False), 0).values())


# ---- the twins are right ---------------------------------------------------------------------------------------------


def test_the_twins_of_norms_have_autograds_gradients() -> None:
    made = Made(torch.float32, 9, exact=True)
    stream_TD, scale_D, upstream_TD = made.wide(9, WIDTH).requires_grad_(), made.wide(WIDTH), made.wide(9, WIDTH)
    wanted_TD = F.rms_norm(stream_TD, (WIDTH,), scale_D, 1e-5)
    wanted_TD.backward(upstream_TD)
    out_TD, inverse_T, gradient_TD = torch.empty_like(scale_D.expand(9, -1)), torch.empty(9).double(), upstream_TD * 0
    Plain().rms_norm(stream_TD.detach(), scale_D, 1e-5, out_TD, inverse_T)
    passed_TD = made.wide(9, WIDTH)
    Plain().rms_norm_backward(upstream_TD, stream_TD.detach(), scale_D, inverse_T, passed_TD, gradient_TD)
    assert stream_TD.grad is not None
    torch.testing.assert_close(out_TD, wanted_TD.detach())
    torch.testing.assert_close(gradient_TD, stream_TD.grad + passed_TD)


def test_the_twins_of_head_norms_have_autograds_gradients() -> None:
    made = Made(torch.float32, 9, exact=True)
    heads_TC, scale, upstream_TC = made.wide(9, 2 * HEAD).requires_grad_(), made.wide(HEAD), made.wide(9, 2 * HEAD)
    wanted_TC = F.rms_norm(heads_TC.view(9, 2, HEAD), (HEAD,), scale, 1e-6).flatten(1)
    wanted_TC.backward(upstream_TC)
    to_TC, inverse = torch.empty_like(upstream_TC), torch.empty(9, 2).double()
    Plain().head_norm(heads_TC.detach(), to_TC, HEAD, scale, 1e-6, inverse)
    Plain().head_norm_backward(upstream_TC, heads_TC.detach(), HEAD, scale, inverse)
    torch.testing.assert_close(to_TC, wanted_TC.detach())
    torch.testing.assert_close(upstream_TC, heads_TC.grad)


def test_turning_back_undoes_a_rotation_and_leaves_the_rest_of_a_head() -> None:
    made = Made(torch.float32, 9, exact=True)
    heads_TC, angles_TR = made.wide(9, 2 * HEAD), made.wide(9, 8)
    turned_TC = heads_TC.clone()
    Plain().rotate(turned_TC, HEAD, angles_TR.cos(), angles_TR.sin(), 1.0)
    pairs = torch.complex(heads_TC[:, :8], heads_TC[:, 8:16]) * torch.polar(torch.ones_like(angles_TR), angles_TR)
    torch.testing.assert_close(turned_TC[:, :16], torch.cat([pairs.real, pairs.imag], dim=1))
    assert torch.equal(turned_TC[:, 16:HEAD], heads_TC[:, 16:HEAD])
    Plain().rotate(turned_TC, HEAD, angles_TR.cos(), angles_TR.sin(), -1.0)
    torch.testing.assert_close(turned_TC, heads_TC)


@pytest.mark.parametrize("kind", KINDS)
def test_the_twins_of_gates_have_autograds_gradients(kind: Activation) -> None:
    made = Made(torch.float32, 9, exact=True)
    both_T2F, upstream_TF = made.wide(9, 2 * INNER).requires_grad_(), made.wide(9, INNER)
    gate_TF, up_TF = both_T2F.chunk(2, dim=1)
    wanted_TF = (F.silu(gate_TF) if kind == "silu" else F.gelu(gate_TF, approximate="tanh")) * up_TF
    wanted_TF.backward(upstream_TF)
    slopes_T2F, product_TF = both_T2F.detach().clone(), torch.empty_like(upstream_TF)
    Plain().gated_backward(kind, upstream_TF, slopes_T2F, product_TF)
    torch.testing.assert_close(product_TF, wanted_TF.detach())
    torch.testing.assert_close(slopes_T2F, both_T2F.grad)


# ---- which one is taken ----------------------------------------------------------------------------------------------


def test_widths_and_types_without_a_kernel_take_the_twin() -> None:
    assert isinstance(pointwise.pointwise(torch.float32, 64, 24), Plain)
    assert isinstance(pointwise.pointwise(torch.float64, 64), Plain)
    assert isinstance(pointwise.pointwise(torch.float16, 64), Plain)
    assert isinstance(pointwise.pointwise(torch.float32, 64, 32), Native)


@pytest.mark.usefixtures("without_native")
def test_switched_off_all_take_the_twin() -> None:
    assert isinstance(pointwise.pointwise(torch.float32, 64), Plain)
