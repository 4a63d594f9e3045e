"""Training objectives, one per file, each a pure function of per-token statistics.

A file `objectives/x.py` holds `Config` (its settings), `SUMMARY`, `EXAMPLE` (the kinds of example it eats), `NEEDS`
(what a backend must compute beside log-probabilities), `ONLINE` (whether it samples while training), and two functions:
`weight(batch)`, known before any forward, and `loss(config, stats, batch) -> (sum, metric sums)`.
"""

NOT_MEMBERS: frozenset[str] = frozenset()
