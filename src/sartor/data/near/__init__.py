"""Near duplicates: texts that share most of what they say, found without comparing each with each (MinHash and LSH).

near.groups(texts)                      # the number of the first text of each one's group: near ones have the same
index = near.Index()                    # or one after the other:
index.add(texts)                        # for each text the earlier one that it is near to, or None, and then it is kept
index.find(texts)                       # the same, and nothing is kept

How near two texts are is the Jaccard index of their sets of shingles (`shingles.py`). Texts that agree in a few numbers
of their signatures (`minhash.py`) are candidates; the sets themselves decide (`shelf.py`), so a wrong pair is rare.
"""

from sartor.data.near.index import SAMPLE, THRESHOLD, Index, Match, groups, root
from sartor.data.near.shingles import BATCH, frame_of, slices

__all__ = ["BATCH", "SAMPLE", "THRESHOLD", "Index", "Match", "frame_of", "groups", "root", "slices"]
