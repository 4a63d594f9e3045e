"""The base encoder as it is: an item gets the label of the training examples whose embeddings are nearest to its own.

What an encoder reaches without any tuning, as zero-shot and few-shot prompts are for a decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sartor.types import Chat, Embed, Form, Frozen

SUMMARY = "the base encoder: the label of the nearest training examples, or of the nearest mean"
TUNED = False
EMBEDS = True
FORMS: frozenset[Form] = frozenset({"classifier"})

NEIGHBOURS = (0, 1, 5)  # 0: the mean of each label's examples stands for all of them


class Config(Frozen):
    """How many neighbours have a say, and among which examples."""

    neighbours: int
    examples: tuple[Chat, ...]


def candidates(train: Sequence[Chat], room: int, measure: Callable[[Chat], int], seed: int) -> list[Config]:
    """Means of labels, the nearest example, and a vote of the nearest few: dev decides."""
    examples = tuple(train)
    return [Config(neighbours=number, examples=examples) for number in NEIGHBOURS if number <= len(examples) > 0]


def answers(config: Config, items: Sequence[Chat], embed: Embed) -> list[str]:
    """Cosines to the examples, or to the means; a vote is weighed by cosine."""
    import numpy as np

    labels = np.array([example.target.strip() for example in config.examples])
    names, numbers = np.unique(labels, return_inverse=True)
    member_NC = np.eye(len(names))[numbers]
    seen_ND, asked_MD = embed([example.prompt for example in config.examples]), embed([item.prompt for item in items])
    if config.neighbours == 0:
        means_CD = member_NC.T @ seen_ND
        means_CD /= np.linalg.norm(means_CD, axis=1, keepdims=True)
        scores_MC = asked_MD @ means_CD.T
    else:
        cosines_MN = asked_MD @ seen_ND.T
        least_M1 = np.sort(cosines_MN, axis=1)[:, -config.neighbours][:, None]
        scores_MC = np.where(cosines_MN >= least_M1, cosines_MN + 1, 0) @ member_NC
    return [str(names[best]) for best in scores_MC.argmax(axis=1)]


def described(config: Config) -> str:
    return f"{config.neighbours} nearest" if config.neighbours else "means of labels"
