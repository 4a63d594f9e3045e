"""Adapters that change what a module of the base gives: what their families share, as PEFT layers and tuners.

`places` says where they stand, `layer` what they do there, `tuner` how PEFT puts them there; then one file for each
`peft_type`, and `folder` to read back what was written.
"""
