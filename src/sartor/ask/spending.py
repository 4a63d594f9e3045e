"""What asking has taken: questions, tokens, and their cost where prices are given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import Field

from sartor.ask import Answer
from sartor.types import Frozen


class Prices(Frozen):
    """What a million tokens cost, in whatever currency the provider bills."""

    prompt: float = Field(default=0.0, ge=0, description="A million tokens of what is asked.")
    output: float = Field(default=0.0, ge=0, description="A million tokens of what is answered.")


@dataclass(frozen=True, slots=True)
class Spent:
    """Sums over answers, failed ones too: they were paid for. `estimated` counts those whose tokens are reckoned."""

    answers: int = 0
    failures: int = 0
    tries: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    estimated: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            answers=self.answers + other.answers,
            failures=self.failures + other.failures,
            tries=self.tries + other.tries,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            estimated=self.estimated + other.estimated,
            seconds=self.seconds + other.seconds,
        )

    def cost(self, prices: Prices) -> float:
        return (self.prompt_tokens * prices.prompt + self.output_tokens * prices.output) / 1e6

    def told(self, prices: Prices) -> str:
        """In one line, for cards and consoles."""
        tokens = f"{self.prompt_tokens:,} tokens asked and {self.output_tokens:,} answered in {self.tries:,} tries"
        about = f", of which {self.estimated:,} answers are estimated" if self.estimated else ""
        cost = f"; cost {self.cost(prices):.4f}" if prices != Prices() else ""
        return tokens + about + cost


def spent(answers: Iterable[Answer]) -> Spent:
    """What these answers have taken."""
    total = Spent()
    for answer in answers:
        total += Spent(
            answers=1,
            failures=bool(answer.failure),
            tries=answer.tries,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            estimated=answer.estimated,
            seconds=answer.seconds,
        )
    return total
