"""Adapters that change what a module of the base gives: what their families share, as PEFT layers and tuners.

`places` says where they stand, `layer` what they do there, `tuner` how PEFT puts them there; then one file for each
`peft_type`, and `folder` to read back what was written.
"""

from __future__ import annotations

from typing import Literal

#: What may stand between the two layers of a bottleneck.
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"]
