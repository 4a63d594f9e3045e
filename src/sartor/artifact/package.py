"""Package: what is proved becomes a folder that plain PEFT or transformers loads, with its card, proof and lineage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sartor import durable
from sartor.artifact.card import model_card
from sartor.artifact.lineage import Lineage
from sartor.errors import MachineError, Refused
from sartor.plan import Plan
from sartor.proof import Proof
from sartor.store import LINEAGE, Run, read_json

#: Files of the base that say how text becomes tokens and when to stop: they travel with what was tuned.
SPEECH = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def add_speech(base: Path, folder: Path, lineage: Lineage) -> None:
    """Tokenizer, template, stop tokens and lineage into the staging folder of an adapter or a model."""
    for name in SPEECH:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    durable.write_json(folder / LINEAGE, lineage.model_dump(mode="json", by_alias=True))
    if lineage.form in ("classifier", "embedder"):  # they generate nothing
        return
    generation = folder / "generation_config.json"
    settings = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
    durable.write_json(generation, {**settings, "eos_token_id": list(lineage.stop_ids)})


def speech_digests(folder: Path) -> dict[str, str]:
    """The digest of each file of `SPEECH` in a folder, empty where there is none: folders of the same speak alike."""
    return {name: durable.digest(folder / name) for name in SPEECH}


def package(run: Run, plan: Plan, proof: Proof, *, anyway: bool) -> Path:
    """Write `artifact/` of a run: adapter or model as trained, with card and proof.

    Raises:
        Refused: the verdict is not `ship` and `anyway` is not set.
        MachineError: the trained files do not match their checksums.
    """
    if proof.verdict != "ship" and not anyway:
        raise Refused(
            f"the verdict is `{proof.verdict}`: {proof.sentence}",
            hint="`sartor package --anyway` packages it all the same",
        )
    trained = run.result
    problem = durable.verify(trained)
    if problem:
        raise MachineError(f"{problem}: not packaged", hint=f"delete the run's {trained.name}/ and train again")
    with durable.atomic_dir(run.path("artifact")) as staging:
        for name in read_json(trained / durable.MANIFEST)["files"]:  # not what somebody put beside it
            shutil.copyfile(trained / name, staging / name)
        shutil.copyfile(run.path("proof.json"), staging / "proof.json")
        durable.atomic_write(staging / "README.md", model_card(run.id, plan, proof))
    return run.path("artifact")
