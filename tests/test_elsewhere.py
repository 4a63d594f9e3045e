"""Plans for machines that are not here, of models whose weights are not here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sartor.accelerators import machine
from sartor.catalogue import card
from sartor.data.prepare import Prepared, prepare
from sartor.elsewhere import Offer, offer, offer_of, plan_on
from sartor.errors import RecipeError, Refused, UserError
from sartor.names import known, resolve
from sartor.recipe import DataSpec, Recipe, load
from sartor.sizing import Packing, shape_of

from .engines import renderer_of, row, write_rows
from .shell import Shell


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("elsewhere")
    rows = [row(f"Say {n} twice, and say why. " * (1 + n % 9), f"{n} {n}, as you asked.") for n in range(200)]
    write_rows(root / "rows.jsonl", rows)
    (root / "sartor.yaml").write_text("model: llama-3.1-8b-instruct\ndata: rows.jsonl\ntask: exact\n")
    return root


@pytest.fixture(scope="module")
def prepared(folder: Path, smollm2_folder: Path) -> Prepared:
    return prepare(recipe("smollm2-135m-instruct"), folder, renderer_of(smollm2_folder), context=8192)


def recipe(model: str, **tune: Any) -> Recipe:
    return Recipe.model_validate({"model": model, "data": "rows.jsonl", "task": "exact", "tune": tune})


@pytest.fixture(scope="module")
def offered(prepared: Prepared) -> Any:
    def made(on: str, model: str = "llama-3.1-8b-instruct", *, price: float = 0.0, **tune: Any) -> Offer:
        found = card(model)
        assert found is not None
        return offer(recipe(model, **tune), shape_of(found), prepared, machine(on), price=price)

    return made


def test_a_model_whose_weights_are_not_here_is_planned_from_its_shape(offered: Any) -> None:
    found = offered("h100")
    assert (found.parameters, found.dtype, found.devices) == (8_030_261_248, "bfloat16", 1)
    assert found.num_trainable == 41_943_040
    assert 16e9 < found.peak_bytes < found.room_bytes < 79.1 * 2**30
    assert found.recompute == "none"
    assert any("45% of that peak" in note for note in found.notes)
    assert any("datasheet" in note for note in found.notes)


def test_no_figure_is_better_than_the_assumption(offered: Any) -> None:
    for on in ("l4", "h100", "h200", "a100-80x4", "h100x8", "rtx4090", "b200"):
        found = offered(on)
        assert 0 < found.utilisation <= 0.45 + 1e-9, on
        assert found.run_seconds > found.training_seconds > 0


def test_a_faster_device_is_faster_and_a_larger_one_has_more_room(offered: Any) -> None:
    assert offered("h100").training_seconds < offered("a100-80").training_seconds < offered("l4").training_seconds
    assert offered("h200").room_bytes > offered("h100").room_bytes


def test_little_memory_is_met_by_smaller_batches_and_computing_again(offered: Any) -> None:
    tight, roomy = offered("l4"), offered("h200")
    assert tight.peak_bytes <= tight.room_bytes < roomy.room_bytes
    assert tight.micro_tokens <= roomy.micro_tokens


def test_several_devices_hold_the_base_whole_if_they_can_and_share_it_if_they_must(offered: Any) -> None:
    whole, sharded = offered("h100x8"), offered("h100x8", "llama-3.3-70b-instruct")
    assert (whole.sharded, sharded.sharded) == (False, True)
    assert offered("l4x4").sharded, "it would fit each, but the ranks cut what takes more than half of one"
    assert sharded.memory["train"].weights < 70_554e6 * 2 / 7.9
    assert any("FSDP" in note for note in sharded.notes)
    assert any("only the adapter's gradients travel" in note for note in whole.notes)


def test_a_method_that_takes_layers_apart_is_refused_where_devices_share_them_out(offered: Any) -> None:
    assert not offered("h100x8", adapter="lets").sharded
    with pytest.raises(RecipeError, match="this base is cut over the devices"):
        offered("h100x8", "llama-3.3-70b-instruct", adapter="lets")


def test_what_is_trained_on_several_devices_is_shared_as_they_will_run_it(offered: Any) -> None:
    """`backends/fsdp.py` cuts a base that is trained, whatever its size, and no adapter."""
    full, adapter = offered("h200x8", "llama-3.2-1b-instruct", adapter="full"), offered("h100x8")
    assert (full.sharded, adapter.sharded) == (True, False)
    assert (full.job.computed_by, adapter.job.computed_by) == ("transformers", "hand-written")
    sharded = offered("h100x8", "llama-3.3-70b-instruct")
    assert sharded.job.computed_by == "transformers"
    assert sharded.memory["train"].masters == 4 * sharded.num_trainable


def test_a_base_that_cannot_answer_on_one_device_is_said_to_have_no_proof(offered: Any) -> None:
    """Four bits are trained on, and answer as numbers of 16: no fewer rows at a time help."""
    found = offered("rtx4090", "qwen3-14b", adapter="qlora")
    assert found.memory["generate"].weights > found.room_bytes > found.peak_bytes
    assert "No proof here: answering needs at least" in found.advice[0]
    assert not any("fewer at a time" in note for note in found.notes)
    sharded = offered("h100x8", "llama-3.3-70b-instruct")
    assert sharded.memory["generate"].weights == 2 * sharded.parameters
    assert "No proof here" in sharded.advice[0]


def test_virtual_tokens_take_time_and_memory(offered: Any) -> None:
    few, many = (offered("h100", adapter={"name": "prompt_tuning", "tokens": tokens}) for tokens in (20, 900))
    assert many.micro_tokens == few.micro_tokens + 880
    assert many.training_seconds > few.training_seconds


def test_objectives_that_no_run_would_take_are_refused(prepared: Prepared, offered: Any) -> None:
    with pytest.raises(RecipeError, match=r"tune\.objective\.beta"):
        offered("h100", objective={"name": "sft", "beta": 1})
    embedding = next(name for name in known("objectives") if "embeddings" in resolve("objectives", name).NEEDS)
    with pytest.raises(RecipeError, match="trains embeddings, and this base is no encoder"):
        offered("h100", objective={"name": embedding})


def test_saving_takes_the_time_of_the_recipe(offered: Any) -> None:
    often, seldom = (offered("h100", "qwen3-1.7b", adapter={"name": "full"}, save_every=every) for every in (1, 1000))
    assert often.stages["train"] > seldom.stages["train"]


def test_examples_beyond_the_context_are_said(tmp_path: Path, smollm2_folder: Path) -> None:
    """Refused where the model's own tokenizer counted them; by another one they are only named."""
    write_rows(tmp_path / "rows.jsonl", [row(f"Say {n}. " * (3000 * (n == 7) + 1), f"{n}!") for n in range(40)])
    with pytest.raises(Refused, match="1 examples are longer than 8192 tokens") as caught:
        plan_on(recipe("smollm2-135m-instruct"), tmp_path, machine("h100"))
    assert "`data.too_long: drop`" in caught.value.hint
    borrowed = recipe("llama-3.1-8b-instruct").model_copy(update={"data": DataSpec(train="rows.jsonl", max_length=900)})
    notes = plan_on(borrowed, tmp_path, machine("h100")).notes
    assert any("1 examples are longer than 900 tokens and planned as they are" in note for note in notes)


def test_another_machine_is_planned_for_without_torch() -> None:
    code = "import sys, sartor.elsewhere, sartor.explain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_save_takes_no_memory_of_the_device(offered: Any) -> None:
    found = offered("h100", "llama-3.2-3b-instruct", adapter="full")
    assert found.peak_bytes == found.memory["train"].total < found.room_bytes
    assert 40 < found.memory["save"].total / 2**30 < 48


def test_a_device_that_has_no_kernels_of_ours_is_planned_without_them(offered: Any) -> None:
    assert (offered("t4", "qwen3-1.7b").job.computed_by, offered("l4").job.computed_by) == (
        "transformers",
        "hand-written",
    )


def test_beginnings_in_common_are_computed_once_on_one_device(offered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows begin alike; of the steps of several devices each has a part of its own."""
    shared = {on: offered(on) for on in ("h100", "h100x2")}
    monkeypatch.setattr("sartor.elsewhere.packer", lambda *given, **named: lambda job: Packing(1, 1, 1.0))
    for on, once in shared.items():
        again = offered(on)
        assert (once.training_seconds < again.training_seconds, once.tokens) == (on == "h100", again.tokens)


def test_devices_without_work_are_named(offered: Any) -> None:
    assert any("8 devices have no work" in note for note in offered("h100x16").notes)


def test_the_price_is_that_of_all_devices_for_the_whole_run(offered: Any) -> None:
    found = offered("h100x8", price=2.5)
    assert found.price == pytest.approx(2.5 * 8 * found.run_seconds / 3600, rel=1e-3)
    assert offered("h100x8").price == 0


def test_a_device_without_bf16_is_planned_in_fp32(offered: Any) -> None:
    assert offered("t4", "qwen3-1.7b").dtype == "float32"


def test_what_cannot_fit_is_refused_with_the_nearest_that_can(offered: Any) -> None:
    with pytest.raises(Refused, match=r"at least 1\d\d\.\d GiB, .* h100 has 79\.1 GiB, of which 75\.1") as caught:
        offered("h100", "llama-3.3-70b-instruct")
    assert "take h100x4" in caught.value.hint
    assert "set `model` to qwen3-32b" in caught.value.hint
    with pytest.raises(Refused) as caught:
        offered("rtx4090", adapter="full")
    assert "set `tune.adapter` to lora" in caught.value.hint


def test_a_folder_with_its_configuration_alone_is_enough(folder: Path) -> None:
    config = {
        "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "intermediate_size": 14336,
        "num_key_value_heads": 8, "vocab_size": 32768, "tie_word_embeddings": False, "max_position_embeddings": 32768,
    }  # fmt: skip
    (folder / "mine").mkdir()
    (folder / "mine/config.json").write_text(json.dumps(config))
    found = plan_on(recipe("mine"), folder, machine("h100"))
    assert round(found.parameters / 1e6) == 7248
    assert "tokenizer of smollm2-135m-instruct, as that of mine is not here" in found.notes[0]


def test_a_folder_of_packed_weights_is_planned_as_it_is_held(folder: Path) -> None:
    config = {
        "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "intermediate_size": 14336,
        "num_key_value_heads": 8, "vocab_size": 32768, "tie_word_embeddings": False, "max_position_embeddings": 32768,
    }  # fmt: skip
    for name, quantization in (("whole", {}), ("packed", {"quantization_config": {"quant_method": "gptq"}})):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config | quantization))
    whole, packed = (plan_on(recipe(name), folder, machine("h100")) for name in ("whole", "packed"))
    assert (whole.job.quantize, packed.job.quantize) == ("none", "gptq")
    assert packed.memory["train"].weights < 0.35 * whole.memory["train"].weights


def test_what_a_recipe_makes_is_planned_and_cleaned_as_in_a_run(shell: Shell, tiny_folder: Path) -> None:
    """The rows that are there twice are counted once, and a cleaner has its encoder."""
    write_rows(shell.folder / "rows.jsonl", [row(f"Say {n}.", f"{n}, as you asked.") for n in range(60)] * 2)
    (shell.folder / "sartor.yaml").write_text(
        f"model: {tiny_folder}\ntask: exact\ntune: {{epochs: 1}}\ndata:\n  train: rows.jsonl\n"
        "  clean: [{name: semantic_duplicates, threshold: 1.0}]\n"
        "  make: [{name: clean, cleaners: [exact_duplicates]}]\n"
    )
    code, _, err = shell("plan", "--on", "h100")
    assert (code, "has not made its examples yet" in err) == (2, True), err
    made = shell.json("check")["counts"]["train"]
    assert made < 60
    (run,) = (path.name for path in (shell.folder / "runs").iterdir() if path.name != "data")
    for asked in ((), ("--run", run)):
        offer = shell.json("plan", *asked, "--on", "h100")
        assert offer["tokens"] < 60 * 60
        assert f"{made} training examples" in offer["advice"][0]


def test_a_model_of_unknown_size_is_not_fetched_to_learn_it(folder: Path) -> None:
    with pytest.raises(UserError, match="sizes of 'somebody/their-model' are not known here") as caught:
        plan_on(recipe("somebody/their-model"), folder, machine("h100"))
    assert "config.json" in caught.value.hint
    assert "qwen3-8b" in caught.value.hint


def test_a_price_without_a_device_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="a price of 2, but for no device") as caught:
        offer_of(load(folder / "sartor.yaml"), folder, "", price=2.0)
    assert "--on h100 --price 2" in caught.value.hint
    with pytest.raises(UserError, match="a price of nan"):
        offer_of(load(folder / "sartor.yaml"), folder, "h100", price=float("nan"))


def test_no_more_devices_are_proposed_than_one_host_has(offered: Any) -> None:
    with pytest.raises(Refused) as caught:
        offered("l4", "llama-3.3-70b-instruct", adapter="full")
    assert "take l4x" not in caught.value.hint


def test_several_hosts_are_said_to_be_too_many(offered: Any) -> None:
    assert any("trains on the devices of one" in note for note in offered("h100x16").notes)
    assert not any("hosts" in note for note in offered("h100x8").notes)


def test_a_smaller_optimizer_needs_less(offered: Any) -> None:
    eight, usual = (offered("h200", optimizer=name) for name in ("adamw_8bit", "adamw"))
    assert 4 * eight.memory["train"].moments == usual.memory["train"].moments == 8 * usual.num_trainable


def test_moments_of_eight_bits_are_not_offered_where_trained_weights_are_shared_out(offered: Any) -> None:
    with pytest.raises(RecipeError, match="2 devices share the trained weights out") as caught:
        offered("h200x2", adapter="full", optimizer="adamw_8bit")
    assert "adamw" in caught.value.hint
    assert offered("h200x2", optimizer="adamw_8bit").peak_bytes
    with pytest.raises(Refused) as refused:
        offered("l4x2", "llama-3.1-8b-instruct", adapter="full")
    assert "adamw_8bit" not in refused.value.hint


def test_a_recipe_on_disk_with_overrides(folder: Path) -> None:
    asked = load(folder / "sartor.yaml", ["model=smollm2-135m-instruct"])
    found = offer_of(asked, folder, "h200", price=0.0)
    assert (found.model, found.machine) == ("smollm2-135m-instruct", "h200")
    assert "the model's own tokenizer" in found.notes[0]
    assert not list(folder.glob("runs/*")), "looking costs nothing and leaves nothing"
