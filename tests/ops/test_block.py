"""Where the results of a forward are kept, by policy; what is trained in parts."""

from __future__ import annotations

import torch

from sartor.ops.block import Pass, masters_of, widen
from sartor.ops.joint_linear import JointLinear

from .conftest import adapted, forest_of, norm_of, plain_tools
from .conftest import pass_of as make_pass

FOREST = forest_of([0, 4], [-1])


def test_a_result_is_saved_unless_it_will_be_computed_again() -> None:
    tools = plain_tools()
    run = make_pass(tools, FOREST, 2, frozenset({"both"}))
    assert run.round is not None
    saved = run.keep(tools, "qkv", 3, 4, 5)
    assert saved.data_ptr() == run.round.save("qkv", 3, (4, 5), torch.float64).data_ptr()
    assert run.keep(tools, "both", 3, 4, 5).data_ptr() == tools.room("both", 4, 5).data_ptr()


def test_without_a_backward_nothing_is_saved() -> None:
    tools = plain_tools()
    run = Pass(FOREST, torch.ones(4, 2), torch.zeros(4, 2))
    assert run.keep(tools, "qkv", 3, 4, 5).data_ptr() == tools.room("qkv", 4, 5).data_ptr()


def test_masters_come_in_the_order_of_the_parts() -> None:
    norm = norm_of(4, trained=True)
    linear = JointLinear([*adapted({"a": (4, 6), "b": (4, 2)}).values()], torch.float64)
    assert masters_of([linear, norm]) == [*linear.masters, *norm.masters]
    assert len(masters_of([norm_of(4), norm, linear])) == 5


def test_widened_rows_are_a_copy_in_the_streams_type() -> None:
    tools = plain_tools()
    rows_TD = torch.randn(3, 4).bfloat16()
    wide_TD = widen(tools, rows_TD, "wide")
    assert wide_TD.dtype == torch.float64
    assert torch.equal(wide_TD, rows_TD.double())
    assert tools.factors("one", 3).dtype == torch.float64
