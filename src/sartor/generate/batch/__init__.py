"""The parts of our own engine: the pages of its cache, the rows of its batch, layers, adapters, choice of tokens."""
