"""Reading what PEFT wrote: what is not there, or damaged, is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sartor.adapters.saving import read_config, read_weights
from sartor.errors import ModelError


def test_what_is_there_is_read(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    save_file({"a": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    assert read_config(tmp_path) == {"r": 4}
    assert torch.equal(read_weights(tmp_path)["a"], torch.ones(2))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no adapter_config\.json") as caught:
        read_config(tmp_path)
    assert "as PEFT writes it" in caught.value.hint
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("written", "says"), [("{'r': 4}", "Expecting property name"), ("[1, 2]", "it is no JSON object")]
)
def test_a_malformed_configuration_is_named(tmp_path: Path, written: str, says: str) -> None:
    (tmp_path / "adapter_config.json").write_text(written)
    with pytest.raises(ModelError, match=rf"adapter_config\.json cannot be read: {says}") as caught:
        read_config(tmp_path)
    assert "sartor package" in caught.value.hint


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors cannot be read"):
        read_weights(tmp_path)
