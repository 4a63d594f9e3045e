"""The OpenAI-compatible server: one base with many adapters, over HTTP, behind a key.

Reading order: errors · wire (what comes in) · replies (what goes out) · keys · text (ids to text, stop strings) ·
answer (one answer as pieces, plain Python) · turns (one at a time, in a thread of its own) · desk (the served names) ·
question (a request as token ids) · streams · completions (the chat route) · guard (what stands before every route) ·
app · run.
"""
