"""Run → Artifact: what leaves the house. The PEFT folder, all that serving it right needs, card and lineage."""
