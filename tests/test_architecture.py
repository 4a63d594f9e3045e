"""The house rules that a machine can check. Each check is also shown a planted fault, which it must find."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sartor import names

ROOT = Path(__file__).parent.parent / "src" / "sartor"
TESTS = Path(__file__).parent

#: Reading order is dependency order: a file imports only what stands above it (`docs/why/layout.md` says why this one).
ORDER = (
    *("errors", "names", "types", "recipe", "plan", "proof", "events", "durable", "store"),
    *("hardware", "accelerators", "catalogue", "hub", "control", "chat", "texts"),
    *("formats", "data", "extract", "objectives", "stats", "metrics"),
    *("ops", "base", "adapters", "peft", "backends", "generate", "ask", "collect", "build", "augment"),
    *("sizing", "timing", "advice"),
    *("asked", "quantisation", "jobs", "planner", "planner_padded", "readiness", "check", "elsewhere", "methods"),
    *("arms", "evaluate", "rehearse", "train", "prove"),
    *("artifact", "serve", "report", "sinks", "workshop", "stages"),
    *("convert", "explain", "launch", "new", "doctor", "schemas", "cli"),
)
#: What every command loads before it knows what to do: no heavy library at import.
WORDS = ORDER[: ORDER.index("hub") + 1]
HEAVY = ("torch", "transformers", "numpy", "peft", "safetensors", "matplotlib", "fastapi", "huggingface_hub")
LEAVES = (
    *("objectives", "metrics", "adapters", "formats", "arms"),
    *("data.clean", "extract", "collect", "build", "augment", "workshop"),
)

LONGEST_FUNCTION, LONGEST_FILE, SMALL = 60, 500, 30

#: Files that may write: `durable`; the store, which holds a lock file; and the one that turns a switch of the kernel.
WRITERS = frozenset({"durable.py", "store.py", "hardware.py"})
#: Parts that are tested through what they serve.
TESTED_BY = {
    "ops.prompt_space": "adapters.virtual.intrinsic",
    "data.reading.array": "read",
    "data.reading.express": "quick_ways",
    "data.reading.row": "read",
    "data.reading.rows": "read",
    "stages": "cli",
    "asked": "planner",
    "jobs": "planner",
    "planner_padded": "padded_runs",
    "backends.forms": "backends.padded",
    "backends.updates": "backends.torch",
    "ops.gpu.kernels": "ops.gpu.pointwise",
    "ops.gpu.forest_kernels": "ops.gpu.forest",
    "ops.gpu.paged_kernels": "ops.gpu.paged",
    "generate.batch.joint": "generate.batch_layers",
    "generate.loading": "generate.sartor",
    "generate.embedder": "serve.embeddings",
    "generate.protocol": "generate.sartor",
    "generate.vllm.wire": "generate.vllm",
    "serve.app": "serve.client",
    "serve.completions": "serve.client",
    "serve.replies": "serve.client",
    "serve.streams": "serve.client",
    "cli.common": "cli",
    "cli.looking": "cli",
    "cli.verbs": "cli",
}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    """`data/pack.py` is `data.pack`, `data/__init__.py` is `data`."""
    return place(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module(path): path for path in sources()}


def every(check: str) -> list[str]:
    """What a check (a function of this file, by name) finds in all files."""
    return [problem for path in sources() for problem in CHECKS[check](ast.parse(path.read_text("utf-8")), place(path))]


# ---- (a) reading order is dependency order ---------------------------------------------------------------------------


def is_hint(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(tree: ast.AST, *, hints: bool) -> Iterator[str]:
    """The modules of ours that a file imports, anywhere in it: `data.pack`, or "" for the root."""
    for node in ast.iter_child_nodes(tree):
        if is_hint(node) and not hints:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "sartor")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sartor":
            parent = node.module.partition(".")[2]
            for alias in node.names:
                inner = f"{parent}.{alias.name}".strip(".")
                yield inner if inner in MODULES else parent
        yield from imported(node, hints=hints)


def check_order(tree: ast.AST, where: str) -> list[str]:
    """Imports of what stands below, or of another member of a leaf folder."""
    own = where.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    top = own.split(".")[0]
    if top not in ORDER and where != "__init__.py":
        return [f"{where} has no place in ORDER"]
    problems = []
    for target in imported(tree, hints=not own.startswith(LEAVES)):
        folder = target.partition(".")[0]
        if folder and folder != top and ORDER.index(folder) >= ORDER.index(top):
            problems.append(f"{where} imports {target}, which stands below it")
        problems += [
            f"{where} imports {target} by name: members of {leaf} are reached by names.resolve"
            for leaf in LEAVES
            if target.startswith(f"{leaf}.") and target.removeprefix(f"{leaf}.").split(".")[0] in names.known(leaf)
        ]
    return problems


def test_reading_order_is_dependency_order() -> None:
    assert every("order") == []


def test_the_order_names_no_module_twice_and_none_that_is_not_there() -> None:
    assert len(set(ORDER)) == len(ORDER)
    assert set(ORDER) == {name.split(".")[0] for name in MODULES} - {"", "__init__"}


# ---- (b) importing is free -------------------------------------------------------------------------------------------


def loaded_by(modules: list[str]) -> set[str]:
    code = f"import sys\nfor name in {modules!r}: __import__(name)\nsys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split() if name in HEAVY}


@pytest.mark.parametrize("group", [["sartor"], ["sartor.cli"], [f"sartor.{name}" for name in WORDS]], ids=" ".join)
def test_importing_is_free(group: list[str]) -> None:
    assert loaded_by(group) == set()


@pytest.mark.parametrize("kind", [*LEAVES, "backends", "generate"])
def test_listing_is_free_of_torch(kind: str) -> None:
    assert loaded_by([f"sartor.{kind}"]) & {"torch", "transformers", "peft"} == set()


def test_a_heavy_import_is_noticed() -> None:
    assert loaded_by(["sartor.data.pack"]) == {"numpy"}


# ---- (c) sizes -------------------------------------------------------------------------------------------------------


def check_size(tree: ast.AST, where: str) -> list[str]:
    """Long functions, and files that do not say what they are."""
    assert isinstance(tree, ast.Module)
    problems = [] if ast.get_docstring(tree) else [f"{where} has no docstring"]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST_FUNCTION:
                problems.append(f"{where}: {node.name} has {length} lines")
    return problems


def test_functions_are_short_and_files_say_what_they_are() -> None:
    assert every("size") == []


def test_files_are_short() -> None:
    lengths = {place(path): len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


# ---- (d) what only some files may do ---------------------------------------------------------------------------------


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call and what is called, as written: `self._optimizer.step`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def check_muscle(tree: ast.AST, where: str) -> list[str]:
    """Gradients and updates outside of backends and kernels: there is one loop, and it calls verbs."""
    if where.startswith(("backends/", "ops/")):
        return []
    return [
        f"{where}:{node.lineno} calls {called}"
        for node, called in calls(tree)
        if called.endswith((".backward", "optimizer.step"))
    ]


def check_surface(tree: ast.AST, where: str) -> list[str]:
    """Printing outside of the command line and the sinks."""
    if where.startswith(("cli/", "sinks/")):
        return []
    return [f"{where}:{node.lineno} prints" for node, called in calls(tree) if called == "print"]


def check_guessing(tree: ast.AST, where: str) -> list[str]:
    """Asking a value what it is; `hub.py` reads foreign configurations."""
    if where == "hub.py":
        return []
    return [
        f"{where}:{node.lineno} uses {called}"
        for node, called in calls(tree)
        if called == "hasattr" or (called == "getattr" and len(node.args) > 2)
    ]


def check_foreign_code(tree: ast.AST, where: str) -> list[str]:
    """Ways to run code that somebody put into a file."""
    problems = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [node.module or ""]
        else:
            continue
        problems += [f"{where}:{node.lineno} imports {name}" for name in found if name in ("pickle", "marshal", "dill")]
    for node, called in calls(tree):
        if called in ("eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "numpy.load", "np.load"):
            problems.append(f"{where}:{node.lineno} calls {called}")
        for keyword in node.keywords:
            if keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False":
                problems.append(f"{where}:{node.lineno} trusts remote code")
    return problems


def check_writing(tree: ast.AST, where: str) -> list[str]:
    """Writing past `durable`."""
    if where in WRITERS:
        return []
    problems = []
    for node, called in calls(tree):
        method = called.rpartition(".")[2]
        modes = node.args[1:2] if called == "open" else node.args[:1]
        modes += [keyword.value for keyword in node.keywords if keyword.arg == "mode"]
        texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
        opens = method == "open" and any(set(text) & set("wax+") for text in texts)
        if opens or (method in ("write_text", "write_bytes", "mkdir", "touch") and "." in called):
            problems.append(f"{where}:{node.lineno} calls {called}")
    return problems


CHECKS = {
    "order": check_order,
    "size": check_size,
    "muscle": check_muscle,
    "surface": check_surface,
    "guessing": check_guessing,
    "foreign_code": check_foreign_code,
    "writing": check_writing,
}


@pytest.mark.parametrize("check", ["muscle", "surface", "guessing", "foreign_code", "writing"])
def test_nobody_does_what_is_not_theirs_to_do(check: str) -> None:
    assert every(check) == []


@pytest.mark.parametrize(
    ("check", "where", "fault"),
    [
        ("order", "plan.py", "from sartor.store import Run"),
        ("order", "plan.py", "import sartor.store"),
        ("order", "plan.py", "from sartor import hub"),
        ("order", "train.py", "def f():\n    from sartor.cli import main"),
        ("order", "train.py", "if TYPE_CHECKING:\n    from sartor.cli import main"),
        ("order", "arms/tuned.py", "from sartor.arms.zero_shot import messages"),
        ("order", "metrics/f1.py", "from sartor.metrics import exact"),
        ("order", "data/clean/pii.py", "from sartor.data.clean.secrets import find"),
        ("order", "train.py", "from sartor.objectives import sft"),
        ("order", "stray.py", "from sartor.types import Chat"),
        ("size", "x.py", "x = 1"),
        ("size", "x.py", '"""Words."""\ndef f():\n' + "    x = 1\n" * LONGEST_FUNCTION),
        ("muscle", "train.py", "(loss / weight).backward()"),
        ("muscle", "train.py", "self._optimizer.step()"),
        ("surface", "train.py", "print('x')"),
        ("guessing", "train.py", "hasattr(x, 'y')"),
        ("guessing", "train.py", "getattr(x, 'y', None)"),
        ("foreign_code", "hub.py", "import pickle"),
        ("foreign_code", "hub.py", "from pickle import loads"),
        ("foreign_code", "hub.py", "def f():\n    torch.load('x')"),
        ("foreign_code", "hub.py", "AutoModel.from_pretrained('x', trust_remote_code=True)"),
        ("foreign_code", "hub.py", "AutoModel.from_pretrained('x', trust_remote_code=anyway)"),
        ("foreign_code", "recipe.py", "yaml.load(text)"),
        ("foreign_code", "metrics/load.py", "eval(text)"),
        ("writing", "hub.py", "open(path, 'w')"),
        ("writing", "hub.py", "open(path, mode='ab')"),
        ("writing", "hub.py", "path.open('w', encoding='utf-8')"),
        ("writing", "hub.py", "path.open(mode='r+')"),
        ("writing", "hub.py", "path.write_text('x')"),
        ("writing", "hub.py", "(folder / 'x').mkdir(parents=True)"),
    ],
)
def test_planted_faults_are_found(check: str, where: str, fault: str) -> None:
    assert len(CHECKS[check](ast.parse(fault), where)) == 1


@pytest.mark.parametrize(
    ("check", "where", "right"),
    [
        ("order", "store.py", "from sartor import durable, __version__"),
        ("order", "metrics/f1.py", "from sartor.metrics.normalise import WORDS"),
        ("order", "arms/tuned.py", "if TYPE_CHECKING:\n    from sartor.cli import main"),
        ("muscle", "backends/torch.py", "loss.backward()"),
        ("muscle", "train.py", "backend.step(adam)"),
        ("surface", "cli/verbs.py", "print('x')"),
        ("surface", "train.py", "console.print('x')"),
        ("guessing", "store.py", "getattr(recipe.data, role)"),
        ("foreign_code", "hub.py", "model.eval(); AutoModel.from_pretrained('x', trust_remote_code=False)"),
        ("writing", "hub.py", "path.open(); path.open('rb'); open(path); open('was.txt'); path.open(encoding='utf-8')"),
        ("writing", "durable.py", "path.open('wb')"),
    ],
)
def test_what_is_right_is_left_alone(check: str, where: str, right: str) -> None:
    assert CHECKS[check](ast.parse(right), where) == []


# ---- (e) tests mirror modules ----------------------------------------------------------------------------------------


def mirrors(name: str) -> list[Path]:
    """Where the tests of a module may stand: by its name, with its folder, or in its folder's contract."""
    folder, _, member = TESTED_BY.get(name, name).partition(".")
    if not member:
        return [TESTS / f"test_{folder}.py"]
    stem = member.replace(".", "_")
    found = [TESTS / f"test_{stem}.py", TESTS / folder / f"test_{stem}.py", TESTS / f"test_{folder}.py"]
    return [*found, TESTS / "contract" / f"test_{folder}.py"]


def test_tests_mirror_modules() -> None:
    bare = [
        name
        for name, path in MODULES.items()
        if len(path.read_text("utf-8").splitlines()) > SMALL
        and path.stem != "__init__"
        and not any(test.is_file() for test in mirrors(name))
    ]
    assert bare == []
