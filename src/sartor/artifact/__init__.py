"""Run → Artifact: what leaves the house. The PEFT folder with all that serving it right needs, its card and its lineage."""
