"""The command line as its user meets it: the whole main job on a tiny model, and every mistake in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sartor import cli
from sartor.backends.estimate import CPU
from sartor.sizing import Room

from .shell import Shell


@pytest.fixture
def project(shell: Shell, tiny_folder: Path) -> Shell:
    rows = [{"prompt": f"Say {n} twice.", "completion": f"{n} {n}"} for n in range(80)]
    (shell.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert shell("new", "rows.jsonl", "--model", str(tiny_folder))[0] == 0
    return shell


FAST = ("--set", "tune.steps=3", "--set", "prove.items=10", "--set", "prove.max_new_tokens=4")


def test_the_main_job_from_a_file_to_an_artifact(project: Shell) -> None:
    assert project.json("check")["ok"] is True
    plan = project.json("plan", *FAST)
    assert plan["steps"] == 3
    code, _, talk = project("run", *FAST, "--anyway")
    assert code == 0, talk
    assert "foretold → measured" in talk
    run = next(item for item in project.json("runs") if "package" in item["stages"])
    folder = project.folder / "runs" / run["run"]
    proof = json.loads((folder / "proof.json").read_text())
    assert [arm["name"] for arm in proof["arms"]] == ["zero_shot", "few_shot", "tuned"]
    assert {arm["n"] for arm in proof["arms"]} == {10}
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert {path.name for path in (folder / "artifact").iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md",
        "sartor.json", "proof.json", "generation_config.json", "manifest.json",
    }  # fmt: skip
    assert project.json("show", run["run"])["proof"]["verdict"] == proof["verdict"]

    code, _, talk = project("run", *FAST, "--anyway")
    assert code == 0
    assert [f"{stage}: unchanged, skipped" in talk for stage in ("check", "baseline", "plan", "train", "prove")] == [
        True
    ] * 5

    code, _, talk = project("train", *FAST, "--set", "tune.seed=17", "--set", "tune.learning_rate=0.01")
    assert code == 0, talk
    assert "check: made before from the same inputs, in rows-" in talk


def test_the_adapter_loads_with_plain_peft_and_answers_the_same(project: Shell, tiny_folder: Path) -> None:
    from sartor.chat import open_renderer
    from sartor.generate.protocol import Sampling
    from sartor.generate.sartor import open_engine
    from sartor.types import Message

    run = project.json("train", *FAST)
    adapter = Path(run["adapter"]).resolve()
    renderer = open_renderer(adapter)
    prompt = list(renderer.prompt([Message(role="user", content="Say 5 twice.")]))
    engine = open_engine(tiny_folder, {"tuned": adapter}, dtype="float32", num_threads=1)
    ours = [token.id for token in engine.stream([prompt], Sampling(8, frozenset()), "tuned")]
    script = """
import json, sys, torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
turns = [{"role": "user", "content": "Say 5 twice."}]
ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
out = model.generate(**ids, max_new_tokens=8, do_sample=False, eos_token_id=-1)
assert "sartor" not in sys.modules
print(json.dumps({"prompt": ids["input_ids"][0].tolist(), "answer": out[0, ids["input_ids"].shape[1]:].tolist()}))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(adapter)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"prompt": prompt, "answer": ours}


def test_a_trained_run_answers_the_official_client(project: Shell) -> None:
    import re

    from openai import AuthenticationError, NotFoundError, OpenAI

    run = project.json("train", *FAST)["run"]
    command = [sys.executable, "-W", "ignore", "-m", "sartor.cli", "serve", run, "--port", "0", "--api-key", "sk-test"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        url = next(found[1] for line in server.stderr if (found := re.search(r"base URL (\S+)", line)))
        client = OpenAI(base_url=url, api_key="sk-test")
        names = [model.id for model in client.models.list()]
        assert names[1] == run
        question: Any = {"messages": [{"role": "user", "content": "Say 7 twice."}], "max_tokens": 5}
        whole = client.chat.completions.create(model=run, **question)
        assert whole.usage is not None
        assert whole.usage.completion_tokens <= 5
        chunks = list(client.chat.completions.create(model=run, stream=True, **question))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        with pytest.raises(NotFoundError):
            client.chat.completions.create(model="nobody", **question)
        with pytest.raises(AuthenticationError):
            OpenAI(base_url=url, api_key="sk-wrong").models.list()
    finally:
        server.terminate()
        assert server.wait(timeout=30) == 0


def test_package_refuses_what_the_proof_does_not_carry(project: Shell) -> None:
    code, _, talk = project("package", *FAST)
    assert code == 1
    assert "the verdict is" in talk
    assert "--anyway" in talk


def test_a_second_process_is_told_who_works(project: Shell) -> None:
    from sartor.recipe import load
    from sartor.store import open_run

    with open_run(Path("sartor.yaml"), load(Path("sartor.yaml"))).locked():
        code, _, talk = project("check")
    assert code == 2
    assert "is being worked on by process" in talk


def test_stop_asks_the_process_that_it_found(project: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked a second time, a run that ended meanwhile says 0: to a signal, this whole group of processes."""
    from sartor.recipe import load
    from sartor.store import Run, open_run

    run = open_run(Path("sartor.yaml"), load(Path("sartor.yaml")))
    workers, killed = iter([4711, 0, 0]), list[int]()
    monkeypatch.setattr(Run, "worker", lambda run: next(workers))
    monkeypatch.setattr(os, "kill", lambda process, number: killed.append(process))
    code, _, talk = project("stop", run.id)
    assert (code, killed) == (0, [4711])
    assert "asked process 4711 to save and leave" in " ".join(talk.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check"], 2, "no recipe at sartor.yaml"),
        (["new", "missing.jsonl"], 2, "missing.jsonl"),
        (["show", "nope"], 2, "0 runs fit"),
        (["stop"], 2, "nothing is running"),
        (["explain", "tune.learning_rat"], 2, "did you mean"),
        (["explain", "tune.lr"], 2, "did you mean 'tune.learning_rate'"),
        (["plan", "--on", ""], 2, "--on names no machine"),
        (["schema", "recip"], 2, "did you mean 'recipe'"),
        (["models", "--path", "smolm2-135m-instruct"], 2, "did you mean 'smollm2-135m-instruct'"),
        (["serve"], 2, "no recipe"),
    ],
)
def test_a_users_mistake_is_answered_in_words(shell: Shell, arguments: list[str], code: int, words: str) -> None:
    found, _, talk = shell(*arguments)
    assert found == code
    assert words in " ".join(talk.split())
    assert "→" in talk
    assert "Traceback" not in talk


def test_a_place_that_cannot_be_used_is_told(shell: Shell) -> None:
    (shell.folder / "file").write_text("")
    code, _, talk = shell("check", "file/sartor.yaml")
    assert (code, "file/sartor.yaml: Not a directory" in " ".join(talk.split()), "Traceback" in talk) == (
        3,
        True,
        False,
    )


def test_a_named_run_takes_no_other_settings(project: Shell) -> None:
    from sartor.recipe import load
    from sartor.store import open_run

    run = open_run(Path("sartor.yaml"), load(Path("sartor.yaml"))).id
    for verb in ("check", "baseline", "plan", "train", "prove", "run"):
        code, _, talk = project(verb, "--run", run, "--set", "tune.steps=3")
        assert (code, f"--set tune.steps=3 does not go with --run {run}" in " ".join(talk.split())) == (2, True), talk
        assert "leave out --run" in " ".join(talk.split())
    assert len(list(Path("runs").iterdir())) == 1


def test_bad_rows_stop_the_check_with_their_lines(shell: Shell) -> None:
    good = json.dumps({"prompt": "a", "completion": "b"})
    (shell.folder / "rows.jsonl").write_text(f"{good}\n{{broken\n{good}\n")
    (shell.folder / "sartor.yaml").write_text("model: smollm2-135m-instruct\ndata: rows.jsonl\ntask: exact\n")
    code, _, talk = shell("check")
    assert code == 2
    assert "rows.jsonl:2" in talk
    assert "max_bad_rows" in talk


def test_check_refuses_at_once_what_the_plan_would_refuse(project: Shell) -> None:
    for asked in ("prove.arms=[tuned]", "tune.adapter={name: lora, targets: [foo]}"):
        code, _, talk = project("check", "--set", asked)
        assert (code, asked.partition("=")[0] in talk, "rows" in talk) == (2, True, False), talk


def test_what_no_plan_can_follow_is_refused_where_the_check_is_borrowed_too(project: Shell) -> None:
    """The length of training is no part of what the check read, so it is not run again."""
    assert project("check")[0] == 0
    asked = ("--set", "tune.steps=3", "--set", "tune.epochs=1", "--set", "prove.items=10")
    code, _, talk = project("baseline", *asked)
    assert (code, "both `tune.steps` and `tune.epochs`" in talk, "baseline" in talk) == (2, True, False), talk


def test_a_base_without_room_to_answer_is_refused_before_it_is_opened_and_trained_all_the_same(
    project: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sartor.stages.room_of", lambda hardware: Room(2**20, CPU))
    code, _, talk = project("run", *FAST)
    assert (code, "answering needs at least" in talk, "`sartor train` trains" in talk) == (3, True, True), talk
    assert project("train", *FAST)[0] == 0


def test_memory_that_runs_out_is_the_machines_fault_and_told(project: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr("sartor.train.open_backend", full)
    code, _, talk = project("train", *FAST)
    said = " ".join(talk.split())
    assert (code, "the memory ran out" in said, "sartor plan --explain" in said) == (3, True, True), talk
    assert "report it" not in said


def test_a_recipe_is_written_only_where_it_can_be_and_for_a_model_that_there_is(project: Shell) -> None:
    code, _, talk = project("new", "rows.jsonl", "--recipe", "/proc/x/sartor.yaml")
    assert (code, "/proc/x/sartor.yaml cannot be written" in " ".join(talk.split())) == (2, True), talk
    code, _, talk = project("new", "rows.jsonl", "--recipe", "x.yaml", "--model", "smolm2-135m-instruct")
    assert (code, "did you mean 'smollm2-135m-instruct'" in " ".join(talk.split())) == (2, True), talk
    assert not (project.folder / "x.yaml").exists()


def test_an_existing_recipe_is_not_replaced(project: Shell) -> None:
    before = (project.folder / "sartor.yaml").read_text()
    code, _, talk = project("new", "rows.jsonl")
    assert code == 2
    assert "--force" in talk
    assert (project.folder / "sartor.yaml").read_text() == before


def test_doctor_models_explain_and_schema_answer(shell: Shell) -> None:
    assert {finding["what"] for finding in shell.json("doctor")} >= {"python", "torch", "memory", "disk"}
    assert shell.json("models")[0]["name"] == "smollm2-135m-instruct"
    assert Path(shell.json("models", "--path", "smollm2-135m-instruct")["path"], "model.safetensors").is_file()
    assert "when" in shell("explain", "tune.learning_rate")[1]
    assert json.loads(shell("schema", "proof")[1])["title"] == "Proof"
    assert shell("--version")[1].startswith("sartor ")


def test_a_plan_explains_its_memory_and_plans_for_other_machines(project: Shell) -> None:
    code, out, _ = project("plan", *FAST, "--explain")
    assert code == 0
    assert "base weights" in out
    assert "the whole run:" in out
    explained = project.json("plan", *FAST, "--explain")
    assert explained["plan"]["steps"] == 3
    assert {line["item"] for line in explained["arithmetic"]} >= {"base weights", "gradients", "one tile of logits"}

    offer = project.json("plan", "--on", "h100x2", "--set", "model=qwen3-8b", "--price", "2")
    assert (offer["machine"], offer["devices"], offer["model"]) == ("h100x2", 2, "qwen3-8b")
    assert offer["price"] == pytest.approx(2 * 2 * offer["run_seconds"] / 3600, rel=0.01)
    code, out, _ = project("plan", "--on", "l4", "--set", "model=llama-3.2-1b-instruct", "--explain")
    assert code == 0
    assert "can be used on each" in out
    assert "1,235.8 M parameters × 2 bytes (bf16)" in out
    code, _, talk = project("plan", "--on", "h10")
    assert code == 2
    assert "did you mean 'h100'" in talk
    code, _, talk = project("plan", "--on", "h100", "--set", "model=llama-3.3-70b-instruct")
    assert code == 1
    assert "take h100x4" in talk


def test_a_package_of_an_extra_that_is_missing_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli.talk, "file", sys.stderr)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 3
    assert "pip install sartor[report]" in capsys.readouterr().err
