"""`import sartor.peft`: afterwards PEFT loads the adapters of Sartor's own methods like any others.

import sartor.peft
from peft import PeftModel
model = PeftModel.from_pretrained(base, "runs/tickets-1a2b3c4d/artifact")
"""

from __future__ import annotations

from sartor.names import known, resolve

for _name in known("adapters"):
    resolve("adapters", _name).register()
