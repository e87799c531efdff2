"""Change a base model in every way that changes its vectors, and see that no cached vector of the old one comes back.

Each change starts from a fresh tiny model with random weights whose vectors of a small data set are cached. Then the
model is changed, the data set is embedded again with the same cache, and every vector is compared with what the changed
model itself gives. A change that does not change a vector (control) must find its vectors in the cache. Writes
scripts/results/check_identity.json.

    pip install peft  # for the changes to a LoRA; without it they are left out, and the result says so
    python scripts/check_identity.py
"""

from __future__ import annotations

import argparse
import copy
import json
import string
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from benchmark_quality import ROOT, git_commit, write_results
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, Pooling, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import BertConfig, BertModel
from transformers.utils import logging as transformers_logging

from st_adapter import EmbeddedDataset, RetrievalDataset, embed
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.identity import identity_of
from st_adapter.saving.record import installed_versions

OUTPUT = ROOT / "scripts" / "results" / "check_identity.json"
# Above the rounding of bfloat16, far below what any change does.
TOLERANCE = 5e-3
DIMENSION, MAX_LENGTH = 32, 32
CHARACTERS = string.ascii_letters + string.digits + string.punctuation


@dataclass(frozen=True)
class Change:
    """One way in which a model becomes another one.

    Attributes:
        name: what is changed.
        make: the model before, given a folder to use.
        apply: changes it; what it returns, if anything, takes its place.
        shows: how it has to be seen: by what can be read of the model (``key``) or only by its vectors (``vectors``).
        bound: whether an adapter of the model before has to refuse the one after.
    """

    name: str
    make: Callable[[Path], SentenceTransformer]
    apply: Callable[[SentenceTransformer, Path], SentenceTransformer | None]
    shows: str = "key"
    bound: bool = True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    commit = git_commit()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    rows = []
    for change in changes():
        rows.append(checked(change))
        print(json.dumps(rows[-1]), flush=True)
    controls = [control(name, make, apply) for name, make, apply in CONTROLS]
    content = {
        "script": Path(__file__).name,
        "commit": commit,
        "versions": installed_versions(),
        "tolerance": TOLERANCE,
        "lora": _peft() is not None,
        "num_changes": len(rows),
        "stale": [row["change"] for row in rows if row["largest_difference"] > TOLERANCE],
        "without_effect": [row["change"] for row in rows if row["effect"] <= TOLERANCE],
        "not_seen_where_expected": [row["change"] for row in rows if row["seen_by"] != row["expected"]],
        "bound_otherwise": [row["change"] for row in rows if row["binding_differs"] != row["bound"]],
        "controls_embedded_again": [row["control"] for row in controls if row["embedded_again"]],
        "changes": rows,
        "controls": controls,
    }
    write_results(arguments.output, content)
    for name in ("stale", "without_effect", "not_seen_where_expected", "bound_otherwise", "controls_embedded_again"):
        print(f"{name}: {content[name]}")


def checked(change: Change) -> dict[str, Any]:
    """Embed, change, embed again with the same cache, and compare with the changed model's own vectors."""
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = Path(temporary)
        model, data = change.make(folder), dataset()
        before = embed(model, data, cache_dir=folder / "cache", show_progress_bar=False)
        old = identity_of(model)
        changed = change.apply(model, folder) or model
        new = embed(changed, data, cache_dir=folder / "cache", show_progress_bar=False)
        queries, documents = vectors(changed, data)
        same_shape = new.query_embeddings.shape == before.query_embeddings.shape
        effects = (
            largest_differences(new, before.query_embeddings, MemoryCorpus.of(before.corpus).embeddings)
            if same_shape
            else [2.0]
        )
        said = any("vectors of another model" in str(warning.message) for warning in caught)
        return {
            "change": change.name,
            "largest_difference": max(largest_differences(new, queries, documents)),
            "effect": max(effects),
            "expected": change.shows,
            "seen_by": "vectors" if said else "key",
            "bound": change.bound,
            "binding_differs": old.difference(identity_of(changed)) is not None,
        }


def largest_differences(embedded: EmbeddedDataset, queries: torch.Tensor, documents: torch.Tensor) -> list[float]:
    sides = ((embedded.query_embeddings, queries), (MemoryCorpus.of(embedded.corpus).embeddings, documents))
    return [float((ours - theirs).abs().max()) for ours, theirs in sides]


def control(
    name: str,
    make: Callable[[Path], SentenceTransformer],
    apply: Callable[[SentenceTransformer, Path], SentenceTransformer | None],
) -> dict[str, Any]:
    """The same for what must change nothing: the second time, no text is embedded for the cache."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, data = make(folder), dataset()
        embed(model, data, cache_dir=folder / "cache", show_progress_bar=False)
        shards = {path.name for path in (folder / "cache").rglob("*.arrow")}
        embed(apply(model, folder) or model, data, cache_dir=folder / "cache", show_progress_bar=False)
        return {"control": name, "embedded_again": {p.name for p in (folder / "cache").rglob("*.arrow")} != shards}


def dataset() -> RetrievalDataset:
    """Short texts and texts that are cut off, in both cases, with numbers and punctuation.

    Few enough for one batch: padded on the left, this model gives a text another vector in other company.
    """
    generator = np.random.default_rng(0)
    letters = np.array(list(string.ascii_letters + string.digits + ".,-"))

    def text(words: int) -> str:
        return " ".join("".join(generator.choice(letters, generator.integers(1, 5))) for _ in range(words))

    rows = [(text(4), text(5 + 12 * (number % 4))) for number in range(30)]
    return RetrievalDataset.load(pd.DataFrame(rows, columns=["query", "document"]))


def vectors(model: SentenceTransformer, data: RetrievalDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model itself gives, documents at unit length as cosine compares them."""
    queries = model.encode_query(list(data.queries["text"]), convert_to_tensor=True)
    documents = model.encode_document(list(data.corpus["text"]), convert_to_tensor=True)
    return queries.float(), nn.functional.normalize(documents.float())


# --- models ---


def bert(folder: Path) -> SentenceTransformer:
    """A BERT with random weights, saved and opened again."""
    inner = folder / "bert"
    inner.mkdir(exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=DIMENSION,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(inner)
    (inner / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": MAX_LENGTH}
    (inner / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    model = SentenceTransformer(
        modules=[Transformer(str(inner)), Pooling(DIMENSION, "mean"), Normalize()], device="cpu"
    )
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return SentenceTransformer(str(folder / "model"), device="cpu")


def with_dense(folder: Path, activation: nn.Module | None = None) -> SentenceTransformer:
    """The same with a Dense module."""
    torch.manual_seed(1)
    dense = Dense(DIMENSION, DIMENSION, activation_function=activation or nn.ELU(1.0))
    return SentenceTransformer(modules=[*list(bert(folder))[:2], dense, Normalize()], device="cpu")


def with_router(folder: Path) -> SentenceTransformer:
    """A base that has routes of its own, each with a pooling."""
    transformer = bert(folder)[0]
    router = Router.for_query_document(
        query_modules=[Pooling(DIMENSION, "mean"), Normalize()],
        document_modules=[Pooling(DIMENSION, "mean"), Normalize()],
        default_route="document",
    )
    return SentenceTransformer(modules=[transformer, router], device="cpu")


def static(folder: Path, lower: bool = True, pre_tokenizer: Any = None) -> SentenceTransformer:
    """Static embeddings with a tokenizer of their own."""
    vocabulary = {token: number for number, token in enumerate(["[UNK]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    weights = np.random.default_rng(0).normal(size=(len(vocabulary), DIMENSION)).astype(np.float32)
    return SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=weights), Normalize()], device="cpu"
    )


class Scaled(Module):  # type: ignore[misc]
    """A module of somebody else: attribute, buffer that is not saved, list, tensor, file and helper shape vectors."""

    config_keys: list[str] = []

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.power = 1.0
        self.register_buffer("shift", torch.zeros(DIMENSION), persistent=False)
        self.order = list(range(DIMENSION))
        self.plain = torch.ones(DIMENSION)
        self.file = str(folder / "table.txt")
        Path(self.file).write_text("1.0", encoding="utf-8")
        self.helper = Helper()

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Map ``features["sentence_embedding"]``, (B, D)."""
        vectors = features["sentence_embedding"][:, self.order]
        vectors = vectors.sign() * vectors.abs() ** (self.power * float(Path(self.file).read_text(encoding="utf-8")))
        vectors = vectors * self.plain * self.helper.factors[0]
        features["sentence_embedding"] = nn.functional.normalize(vectors + self.shift + self.helper.offset())
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """It is never saved here."""


class Helper:
    """An object that a module holds."""

    def __init__(self) -> None:
        self.factors = {0: torch.ones(DIMENSION)}
        self.number = 0.0

    def offset(self) -> float:
        """What is added to a vector."""
        return self.number


class Roles(Module):  # type: ignore[misc]
    """A module that reads ``task``, so that a text has one vector as a query and another as a document."""

    config_keys: list[str] = []
    forward_kwargs: set[str] = {"task"}

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.maps = {task: torch.randn(DIMENSION, DIMENSION, generator=generator) for task in ("query", "document")}

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Map ``features["sentence_embedding"]``, (B, D), by the task's own matrix."""
        vectors = features["sentence_embedding"] @ self.maps[task or "document"]
        features["sentence_embedding"] = nn.functional.normalize(vectors)
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """It is never saved here."""


def with_foreign(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[*bert(folder), Scaled(folder)], device="cpu")


def with_roles(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[*bert(folder), Roles()], device="cpu")


def with_lora(folder: Path) -> SentenceTransformer:
    peft = _peft()
    model = bert(folder)
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], init_lora_weights=False)
        model.add_adapter(config, name)
    model.set_adapter("a")
    return model


def _peft() -> Any:
    try:
        import peft
        import transformers.integrations.peft as integration
    except ImportError:
        return None
    integration.check_peft_version = lambda *args, **kwargs: None  # newer than the newest there is may be asked for
    return peft


# --- changes ---


def changes() -> list[Change]:
    """All of them; those of a LoRA if peft is installed."""
    return [*OF_THE_MODEL, *OF_MODULES, *OF_CODE, *(OF_LORA if _peft() is not None else [])]


def _reopened(**options: Any) -> Callable[[SentenceTransformer, Path], SentenceTransformer]:
    return lambda model, folder: SentenceTransformer(str(folder / "model"), device="cpu", **options)


def _set(path: str, value: Any) -> Callable[[SentenceTransformer, Path], None]:
    def apply(model: SentenceTransformer, folder: Path) -> None:
        *places, last = path.split(".")
        target: Any = model
        for place in places:
            target = target[int(place)] if place.isdigit() else getattr(target, place)
        setattr(target, last, value)

    return apply


def _module(index: int, module: Callable[[], nn.Module]) -> Callable[[SentenceTransformer, Path], None]:
    def apply(model: SentenceTransformer, folder: Path) -> None:
        model[index] = module()

    return apply


def _do(action: Callable[[SentenceTransformer], object]) -> Callable[[SentenceTransformer, Path], None]:
    def apply(model: SentenceTransformer, folder: Path) -> None:
        with torch.no_grad():
            action(model)

    return apply


def _embeddings(model: SentenceTransformer) -> torch.Tensor:
    weights: torch.Tensor = model.transformers_model.get_input_embeddings().weight
    return weights


def _token(model: SentenceTransformer) -> None:
    model.tokenizer.add_tokens(["e", "A", "7"])
    torch.manual_seed(2)
    model.transformers_model.resize_token_embeddings(len(model.tokenizer), mean_resizing=False)


def _wider_vocabulary(model: SentenceTransformer) -> None:
    row = model.tokenizer.convert_tokens_to_ids("a")
    _embeddings(model)[row] *= -2.0


OF_THE_MODEL = [
    Change("one weight", bert, _do(lambda m: _embeddings(m)[5:].mul_(1.2))),
    Change("one row of the embeddings", bert, _do(_wider_vocabulary)),
    Change(
        "one position", bert, _do(lambda m: m.transformers_model.embeddings.position_embeddings.weight[30].mul_(-2))
    ),
    Change("all weights doubled", bert, _do(lambda m: [p.mul_(2) for p in m.parameters()])),
    Change("bfloat16", bert, _do(lambda m: m.to(torch.bfloat16)), bound=False),
    Change("a token added", bert, _do(_token)),
    Change("query prompt", bert, _set("prompts", {"query": "q: ", "document": ""})),
    Change("document prompt", bert, _set("prompts", {"query": "", "document": "d: "})),
    Change(
        "default prompt",
        bert,
        lambda m, f: (_set("prompts", {"x": "x: "})(m, f), _set("default_prompt_name", "x")(m, f))[0],
    ),
    Change("truncate_dim", bert, _set("truncate_dim", 16)),
    Change("max_seq_length", bert, _set("max_seq_length", 8)),
    Change("max_seq_length by the files", bert, lambda m, f: SentenceTransformer(str(_shortened(f)), device="cpu")),
    Change("truncation side", bert, _reopened(processor_kwargs={"truncation_side": "left"})),
    Change("truncation side in memory", bert, _set("tokenizer.truncation_side", "left")),
    Change("padding side", bert, _reopened(processor_kwargs={"padding_side": "left"})),
    Change("padding side in memory", bert, _set("tokenizer.padding_side", "left")),
    Change("lower case", bert, _reopened(processor_kwargs={"do_lower_case": True})),
    Change(
        "normaliser of the tokenizer",
        bert,
        _do(lambda m: setattr(m.tokenizer.backend_tokenizer, "normalizer", normalizers.Lowercase())),
    ),
    Change(
        "pre-tokeniser of the tokenizer",
        bert,
        _do(lambda m: setattr(m.tokenizer.backend_tokenizer, "pre_tokenizer", pre_tokenizers.Split(".", "isolated"))),
    ),
    Change("static: normaliser", static, lambda m, f: static(f, lower=False)),
    Change("static: pre-tokeniser", static, lambda m, f: static(f, pre_tokenizer=pre_tokenizers.WhitespaceSplit())),
    Change("static: truncation", static, _do(lambda m: m[0].tokenizer.enable_truncation(4))),
    Change("static: one row", static, _do(lambda m: m[0].embedding.weight[40:60].mul_(-2))),
]
OF_MODULES = [
    Change("pooling", bert, _module(1, lambda: Pooling(DIMENSION, "cls"))),
    Change("pooling mode in memory", bert, _set("1.pooling_mode", "max")),
    Change("no Normalize", bert, lambda m, f: SentenceTransformer(modules=list(m)[:-1], device="cpu")),
    Change("a Dense more", bert, lambda m, f: with_dense(f)),
    Change("activation", with_dense, _set("2.activation_function", nn.Tanh())),
    Change("parameter of an activation", with_dense, _set("2.activation_function", nn.ELU(0.1))),
    Change("parameter of an activation in memory", with_dense, _set("2.activation_function.alpha", 0.1)),
    Change(
        "activation of a layer", bert, _set("0.auto_model.encoder.layer.0.intermediate.intermediate_act_fn", nn.ReLU())
    ),
    Change("epsilon of a LayerNorm", bert, _set("0.auto_model.embeddings.LayerNorm.eps", 1.0)),
    Change("a layer less", bert, _do(lambda m: m.transformers_model.encoder.layer.__delitem__(1))),
    Change(
        "pooling in a route",
        with_router,
        _do(lambda m: m[1].sub_modules["document"].__setitem__(0, Pooling(DIMENSION, "cls"))),
    ),
    Change(
        "a module more in a route",
        with_router,
        _do(lambda m: m[1].sub_modules["query"].insert(1, Dense(DIMENSION, DIMENSION))),
    ),
    Change("length inside a Router", with_router, _set("0.max_seq_length", 8)),
    Change("attribute of a foreign module", with_foreign, _set("3.power", 2.0)),
    Change("buffer of a foreign module", with_foreign, _do(lambda m: m[3].shift.add_(0.1))),
    Change("list of a foreign module", with_foreign, _do(lambda m: m[3].order.reverse())),
    Change("tensor of a foreign module", with_foreign, _do(lambda m: m[3].plain[:16].mul_(2))),
    Change("object of a foreign module", with_foreign, _do(lambda m: m[3].helper.factors[0][:16].mul_(2))),
    Change("number in an object of a foreign module", with_foreign, _set("3.helper.number", 0.1)),
    Change(
        "file of a foreign module",
        with_foreign,
        lambda m, f: Path(m[3].file).write_text("2.0", encoding="utf-8") and None,
    ),
    Change("weights of one role", with_roles, _do(lambda m: m[3].maps["document"].mul_(-1))),
]


def _shortened(folder: Path) -> Path:
    file = folder / "model" / "sentence_bert_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "max_seq_length": 8}), encoding="utf-8")
    return folder / "model"


def _subclass(model: SentenceTransformer, folder: Path) -> SentenceTransformer:
    class Prefixed(SentenceTransformer):  # type: ignore[misc]
        def encode_query(self, sentences: Any, *args: Any, **kwargs: Any) -> Any:
            texts = f"q {sentences}" if isinstance(sentences, str) else [f"q {text}" for text in sentences]
            return super().encode_query(texts, *args, **kwargs)

    changed = copy.copy(model)
    changed.__class__ = Prefixed
    return changed


def _forward(features: dict[str, Any], factor: float) -> dict[str, Any]:
    return {**features, "sentence_embedding": features["sentence_embedding"].roll(int(factor), dims=1)}


def _hook(factor: float) -> Callable[[SentenceTransformer, Path], None]:
    def apply(model: SentenceTransformer, folder: Path) -> None:
        model[-1].register_forward_hook(lambda module, args, output: _forward(output, factor))

    return apply


def _other_hook(model: SentenceTransformer, folder: Path) -> None:
    model[-1]._forward_hooks.clear()
    _hook(2.0)(model, folder)


def _with_hook(folder: Path) -> SentenceTransformer:
    model = bert(folder)
    _hook(1.0)(model, folder)
    return model


def _other_code(model: SentenceTransformer, folder: Path) -> None:
    """The class of a module by another definition of the same name."""

    class Other(Helper):
        def offset(self) -> float:
            return 0.3

    Other.__name__, Other.__qualname__ = "Helper", "Helper"
    model[3].helper.__class__ = Other


def _patched_library(model: SentenceTransformer, folder: Path) -> SentenceTransformer:
    """What no reading of the model shows: a method of the library itself does something else, for this model."""
    changed = copy.copy(model)
    SentenceTransformer.preprocess = _preprocess
    MODELS_READ_BACKWARDS.add(id(changed))
    KEPT.append(changed)
    return changed


MODELS_READ_BACKWARDS: set[int] = set()
KEPT: list[SentenceTransformer] = []  # so that no other model gets the id of one of these
_PREPROCESS = SentenceTransformer.preprocess


def _preprocess(self: SentenceTransformer, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    return _PREPROCESS(
        self, [text[::-1] for text in inputs] if id(self) in MODELS_READ_BACKWARDS else inputs, *args, **kwargs
    )


def _global_table(model: SentenceTransformer, folder: Path) -> None:
    sys.modules[__name__].FACTOR = 3  # type: ignore[attr-defined]


FACTOR = 1


def _with_global(folder: Path) -> SentenceTransformer:
    sys.modules[__name__].FACTOR = 1  # type: ignore[attr-defined]
    model = bert(folder)
    model[-1].register_forward_hook(lambda module, args, output: _forward(output, FACTOR))
    return model


OF_CODE = [
    Change("a hook", bert, _hook(1.0)),
    Change("another value in a hook", _with_hook, _other_hook),
    Change(
        "a hook before a module",
        bert,
        _do(lambda m: m[-1].register_forward_pre_hook(lambda module, args: (_forward(args[0], 3),))),
    ),
    Change("a value that a hook looks up", _with_global, _global_table),
    Change("a subclass that overrides encode_query", bert, _subclass),
    Change(
        "a method overridden in the instance",
        bert,
        _do(lambda m: setattr(m, "encode_document", types.MethodType(_reversed, m))),
    ),
    Change(
        "forward overridden in a module",
        bert,
        _do(lambda m: setattr(m[2], "forward", lambda features, **kwargs: _forward(features, 5))),
    ),
    Change("code of a foreign class", with_foreign, _other_code),
    Change("a method of the library", bert, _patched_library, "vectors"),
]


def _reversed(self: SentenceTransformer, sentences: list[str], **kwargs: Any) -> Any:
    return SentenceTransformer.encode_document(self, [text[::-1] for text in sentences], **kwargs)


def _rescale(model: SentenceTransformer) -> None:
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["a"] = 9.0


OF_LORA = [
    Change("another LoRA", with_lora, _do(lambda m: m.set_adapter("b"))),
    Change("LoRA switched off", with_lora, _do(lambda m: m.disable_adapters())),
    Change("two LoRAs", with_lora, _do(lambda m: m.set_adapter(["a", "b"]))),
    Change(
        "scaling of a LoRA",
        with_lora,
        _do(_rescale),
    ),
]
CONTROLS: list[
    tuple[str, Callable[[Path], SentenceTransformer], Callable[[SentenceTransformer, Path], SentenceTransformer | None]]
] = [
    ("the same model", bert, lambda m, f: None),
    ("opened again", bert, _reopened()),
    ("used for other texts", bert, _do(lambda m: m.encode(["a", "b " * 200]))),
    ("in training mode", bert, _do(lambda m: m.train())),
    (
        "saved elsewhere and opened",
        bert,
        lambda m, f: (
            m.save_pretrained(str(f / "b"), create_model_card=False),
            SentenceTransformer(str(f / "b"), device="cpu"),
        )[1],
    ),
    ("a deep copy", with_foreign, lambda m, f: copy.deepcopy(m)),
    ("made again", static, lambda m, f: static(f)),
    ("a Dropout of 0", bert, lambda m, f: None if Dropout(0.0) else None),
    ("another batch size before", with_roles, _do(lambda m: m.encode(["a b c"] * 9, batch_size=2))),
]

if __name__ == "__main__":
    main()
