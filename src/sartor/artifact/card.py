"""The model card: what it is, what it was proved on, how to use it, in the layout that hubs read."""

from __future__ import annotations

import json

from sartor.names import resolve
from sartor.plan import Plan
from sartor.proof import Proof

_CARD = """---
base_model: {base_in_yaml}
library_name: {library}
tags: [sartor, {method}]
---

# {name}

{sentence}

Verdict: **{verdict}**, by `{metric}` on {items} held-out items that no training step saw. All arms answered the same
items, rendered the same way.

| arm | {metric} | 95 % interval |
|---|---|---|
{arms}

{forgetting}

## How it was made

`{method}` on `{base}` (revision `{revision}`): {steps} steps of {batch_size} examples, learning rate {learning_rate:g},
{num_trainable:,} trained parameters. Seeds, digests of data, base, recipe and code are in `sartor.json`; every number
of the proof is in `proof.json`.

## How to use it

```
sartor serve path/to/this/folder
```

(where it was made, `sartor serve {name}`), {plainly}.
Take the tokenizer, chat template and stop tokens of this folder: what was trained is then what is served.

## Limits

The proof speaks of items like those it was measured on, and of nothing else.
"""

#: What lies in the folder -> the library that loads it, and how.
_PLAINLY = {
    "adapter": ("peft", "or with plain PEFT, the base named in `adapter_config.json`"),
    "model": (
        "transformers",
        "or with plain transformers, or whatever loads its folders: this is a whole model, the base is not needed",
    ),
}


def model_card(name: str, plan: Plan, proof: Proof) -> str:
    """The card of an artifact, as Markdown with a YAML head."""
    arms = "\n".join(f"| {arm.name} | {arm.score:.1%} | {arm.low:.1%} to {arm.high:.1%} |" for arm in proof.arms)
    forgetting = "Forgetting does not apply: such a base foretells no general text."
    if proof.forgetting:
        forgetting = (
            f"Perplexity on general text: {proof.forgetting.base:.2f} before, {proof.forgetting.tuned:.2f} after "
            f"({proof.forgetting.change:+.1%})."
        )
    library, plainly = _PLAINLY[resolve("adapters", plan.family).TRAINS]
    if plan.model.form == "classifier" and library == "peft":
        plainly += f", opened with `num_labels={len(plan.model.labels)}` (the labels are in `sartor.json`)"
    return _CARD.format(
        library=library,
        plainly=plainly,
        name=name,
        base=plan.model.name,
        base_in_yaml=json.dumps(plan.model.name, ensure_ascii=False),
        revision=plan.model.revision,
        method=plan.adapter.name,
        sentence=proof.sentence,
        verdict=proof.verdict,
        metric=proof.metric,
        items=proof.arms[0].n,
        arms=arms,
        forgetting=forgetting,
        steps=plan.steps,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        num_trainable=plan.num_trainable,
    )
