"""Arms: ways to get an answer from the model, compared on the same items. One prompt strategy per file.

A file `arms/x.py` holds `SUMMARY`, `TUNED` (whether the adapter is on), `FORMS` (the uses of a base that it makes sense
for), `Config` (what may be chosen), and three functions: `candidates(train, room, measure, seed)`, the configurations
worth trying on dev; `messages(config, item)`, what is put to the model for an item; and `described(config)`, what was
chosen, in words. An arm that needs no answer of a model has, in place of `messages`, `answers(config, items, embed)`:
its own, from the labels of examples and what `embed` makes of conversations by the base encoder; and `EMBEDS`, whether
it asks for that.
"""

NOT_MEMBERS: frozenset[str] = frozenset({"as_it_stands"})
