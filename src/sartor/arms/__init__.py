"""Arms: ways to get an answer from the model, compared on the same items. One prompt strategy per file.

A file `arms/x.py` holds `SUMMARY`, `TUNED` (whether the adapter is on), `Config` (what may be chosen), and three
functions: `candidates(train, room, measure, seed)`, the configurations worth trying on dev; `messages(config, item)`,
what is put to the model for an item; and `described(config)`, what was chosen, in words.
"""

NOT_MEMBERS: frozenset[str] = frozenset({"as_it_stands"})
