"""The parts of our own engine: pages of its cache, rows of its batch, its layers, adapters, and the choice of tokens."""
