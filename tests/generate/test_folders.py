"""Adapter folders: whose they are, and which servers are told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sartor.errors import ModelError
from sartor.generate.folders import family_in, method_in, require_lora


def folder_of(tmp_path: Path, lineage: dict[str, Any] | None = None, **config: Any) -> Path:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    if lineage is not None:
        (tmp_path / "sartor.json").write_text(json.dumps(lineage))
    return tmp_path


def test_a_folder_belongs_to_the_family_of_its_type(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, peft_type="IA3")
    assert family_in(folder).__name__ == "sartor.adapters.ia3"
    assert method_in(folder) == "ia3"
    assert method_in(folder_of(tmp_path, {"method": "dora"}, peft_type="LORA")) == "dora"
    assert method_in(folder_of(tmp_path, {"method": "no longer there"}, peft_type="LORA")) == "lora"


def test_an_unknown_type_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="peft_type = 'LORRA', which no method of Sartor reads") as unknown:
        family_in(folder_of(tmp_path, peft_type="LORRA"))
    assert "'LORA'" in unknown.value.hint


@pytest.mark.parametrize(
    ("config", "says", "way_out"),
    [
        ({"peft_type": "IA3"}, "of the method ia3 (IA3), and vLLM serves LoRA alone", "sartor convert --to model"),
        ({"peft_type": "LOHA"}, "of the method loha (LOHA)", "sartor convert --to lora"),
        ({"peft_type": "LORA", "use_dora": True}, "of the method lora (use_dora)", "sartor convert"),
        ({"peft_type": "PREFIX_TUNING"}, "of the method prefix_tuning", "leave `--engine` out"),
    ],
)
def test_servers_of_lora_refuse_all_else_with_the_way_out(
    tmp_path: Path, config: dict[str, Any], says: str, way_out: str
) -> None:
    with pytest.raises(ModelError) as refused:
        require_lora("vLLM", {"calls": folder_of(tmp_path, **config)})
    assert says in refused.value.message and "calls" in refused.value.message
    assert way_out in refused.value.hint


def test_plain_lora_is_let_by(tmp_path: Path) -> None:
    require_lora("vLLM", {"calls": folder_of(tmp_path, peft_type="LORA", lora_alpha=8)})
