"""Sampling: prompts in, tokens out, one at a time. An engine is one file.

It has `open_engine`, and `require_files`, which refuses folders that the engine cannot open before anything is loaded.
"""

NOT_MEMBERS: frozenset[str] = frozenset({"protocol", "batch", "folders", "loading", "several", "padded", "embedder"})
