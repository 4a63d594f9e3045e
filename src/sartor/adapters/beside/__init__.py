"""Methods that work beside a frozen decoder: they read what leaves its layers, and answer at its final norm.

`reading`: what one forward of the backbone leaves · `tuner`: how a network comes to read it, and PEFT's side of that ·
`fusion`, `ladder`, `branches`: the networks of `attention_fusion`, `lst` and `lets` · `pruning`: how a ladder begins.
"""
