"""What is counted is what was paid for."""

from __future__ import annotations

from sartor.ask import Answer
from sartor.ask.spending import Prices, Spent, spent


def test_all_answers_add_up_failed_ones_too() -> None:
    answers = [
        Answer("a", "yes", prompt_tokens=10, output_tokens=2, tries=2),
        Answer("b", failure="empty: no text", prompt_tokens=5, output_tokens=1, estimated=True),
    ]
    total = spent(answers)
    assert total == Spent(answers=2, failures=1, tries=3, prompt_tokens=15, output_tokens=3, estimated=1)
    assert total + spent([]) == total


def test_a_cost_is_told_where_prices_are_given() -> None:
    total = spent([Answer("a", "yes", prompt_tokens=1_000_000, output_tokens=500_000)])
    assert total.cost(Prices(prompt=2, output=8)) == 6.0
    assert "cost 6.0000" in total.told(Prices(prompt=2, output=8))
    assert "cost" not in total.told(Prices())
