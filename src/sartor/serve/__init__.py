"""The OpenAI-compatible server: one base with many adapters, over HTTP, behind a key.

Reading order: errors · wire (what comes in) · replies (what goes out) · keys · text (ids to text, stop strings) ·
answer (one answer as pieces, plain Python) · turns (all answers under way, in one thread) · desk (the served names) ·
question (a request as token ids) · chat_log · streams · completions, continuations and embeddings (the routes that ask
the engine) · guard (what stands before every route) · app · run.
"""
