"""Run → Artifact: what leaves the house. What was tuned, all that serving it right needs, card and lineage."""
