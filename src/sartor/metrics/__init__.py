"""One metric per file: how good is one answer, and how good are all of them. The file name is the metric's name.

A metric file must contain:

- `Config`: a frozen pydantic model (`types.Frozen`) with the metric's options; it may be empty.
- `SUMMARY`: one line for listings.
- `score(config, example, output) -> Score`: a pure function of one held-out example and the model's answer. The value
  lies in [0, 1], an answer equal to the target scores 1, and `detail` says in words why the score is not 1.
- `reduce(scores) -> Interval`: the mean and its confidence interval, whatever the order: `stats.summarise`.

A metric that sets `READS = "likelihood"` is given the mean log-probability of the target's tokens instead of an answer:
its `score` is `score(config, example, logprob)`, and nothing is generated. With `READS = "rank"` it is given the place
of the target among the targets of all held-out items, as embeddings order them: `score(config, example, rank)`.

The user's own metric is a function `(example, output) -> float | Score`, named as `module:function`. `load.load` opens
either kind. This file imports nothing: listing the names must stay free.
"""

from __future__ import annotations

#: Files of this folder that are no metrics: what the metrics share, and what opens them.
NOT_MEMBERS: frozenset[str] = frozenset({"load", "normalise"})
