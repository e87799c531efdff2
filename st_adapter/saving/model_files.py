"""Which files of a folder are part of a Sentence Transformers model: what the libraries read, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base import modules as base_modules
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer import modules as embedding_modules

from st_adapter.storage.paths import file_within
from st_adapter.storage.reading import read_json, read_object

# Bookkeeping of version control and of `hf download --local-dir`, not part of a model.
BOOKKEEPING = (".git", ".hg", ".svn", ".cache")
DAMAGED = "It is damaged: copy or download it again."

_OF_SENTENCE_TRANSFORMERS = {
    *("modules.json", "config_sentence_transformers.json", "router_config.json"),
    # What `Transformer` has looked for since its first release.
    *(f"sentence_{kind}_config.json" for kind in "bert roberta distilbert camembert albert xlm-roberta xlnet".split()),
    *("whitespacetokenizer_config.json", "phrasetokenizer_config.json"),
    *(
        getattr(kind, "config_file_name", "config.json")
        for package in (base_modules, embedding_modules)
        for kind in vars(package).values()
        if isinstance(kind, type) and issubclass(kind, Module)
    ),
}
_OF_TRANSFORMERS = {
    *("config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json"),
    *("processor_config.json", "video_preprocessor_config.json", "audio_tokenizer_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json"),
}
# Every file that a tokenizer of Transformers names, in any release.
_VOCABULARIES = {
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "dict.txt", "emoji.json", "byte_maps.json"),
    *("entity_vocab.json", "normalizer.json", "prophetnet.tokenizer", "tekken.json", "vocab-src.json"),
    *("vocab-tgt.json", "target_vocab.json", "word_pronunciation.json", "word_shape.json"),
    *("sentencepiece.bpe.model", "sentencepiece.model", "spiece.model", "spm.model", "spm_char.model"),
    *("source.spm", "target.spm", "tokenizer.model", "tokenizer.model.v3"),
}
TOKENIZER_FILES = _VOCABULARIES | {name for name in _OF_TRANSFORMERS if "token" in name or "template" in name}
READ_BY_LIBRARIES = sorted(_OF_SENTENCE_TRANSFORMERS | _OF_TRANSFORMERS | _VOCABULARIES)
_WEIGHTS = re.compile(
    r"(adapter_)?model(-\d{5}-of-\d{5})?(\.[a-z0-9_]+)?\.safetensors(\.index\.json)?"
    r"|pytorch_model(-\d{5}-of-\d{5})?(\.[a-z0-9_]+)?\.bin(\.index\.json)?"
)
TERMS = re.compile(
    r"(?i)(licen[sc]e|notice|copying)([-_.](mit|apache|bsd|code|model|data|weights|query))?(\.(txt|md|rst))?|README\.md"
)
_BACKEND_FILES = {
    "onnx": re.compile(r".+\.onnx(_data.*|\.data)?|(ort|quantize)_config\.json|quantization_config\.json"),
    "openvino": re.compile(r".+\.(xml|bin)|openvino_config\.json"),
}
_BACKEND_WEIGHTS = re.compile(r"model(_[a-z0-9_]+)?\.onnx(_data.*)?|openvino_model[a-z0-9_]*\.(xml|bin)")
_TEMPLATES = "additional_chat_templates"
_STOCK = "sentence_transformers."


def model_files(folder: Path, *, custom_code: bool = False, named: Collection[str] = ()) -> list[str]:
    """Relative paths of the files in a folder that the model in it is made of, and of its card and licence.

    Everything else that lies there stays where it is: other people's data, keys, logs, states of a training run.

    Args:
        folder: a folder with ``modules.json``.
        custom_code: whether the code that its configurations name is part of it, with what that code imports and
            mentions.
        named: more names of files, as ``names_read_by`` gives them.

    Raises:
        ValueError: ``modules.json`` is damaged, or one of the files is a pipe or the like, or a link that leads out of
            the folder or round in a loop.
    """
    known = {*READ_BY_LIBRARIES} | {name for name in named if not name.startswith(".")}
    found = {name for name in _names(folder, "") if TERMS.fullmatch(name)}
    found |= {"modules.json", "config_sentence_transformers.json"} & set(_names(folder, ""))
    references: set[tuple[str, str]] = set()
    for entry in read_modules(folder):
        inside(folder, entry["path"], folder / "modules.json")
        for place, kind in _parts(folder, PurePosixPath(entry["path"]).as_posix().removeprefix("."), entry["type"]):
            found |= _part_files(folder, place, known)
            references |= {(place, reference) for reference in _code_references(folder, place, kind)}
    if custom_code:
        found |= _code_files(folder, references)
    for name in found:
        file_within(folder, folder / name)
    return sorted(found)


def names_read_by(model: SentenceTransformer) -> set[str]:
    """Names of files that the classes of a model in memory say they read, such as a tokenizer's vocabulary."""
    names: set[str] = set()
    for module in model.modules():
        tokenizer = getattr(module, "tokenizer", None)
        vocabularies = getattr(tokenizer, "vocab_files_names", None)
        candidates = [getattr(module, "config_file_name", None), *(vocabularies or {}).values()]
        names |= {name for name in candidates if isinstance(name, str) and PurePosixPath(name).name == name}
    return names


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """The entries of ``modules.json``.

    Raises:
        ValueError: it is missing or damaged.
    """
    path = folder / "modules.json"
    entries = read_json(path)
    keys = {"name": str, "path": str, "type": str}
    good = isinstance(entries, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in keys.items())
        for entry in entries
    )
    if not good or not entries:
        raise ValueError(f"{path} is not a list of modules, each with a name, a path and a type. {DAMAGED}")
    return list(entries)


def inside(folder: Path, name: str, source: Path) -> Path:
    """The path that a configuration names, if it stays within the folder.

    Raises:
        ValueError: it leads out of it.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise ValueError(
            f"{source} names the path {name[:200]!r}, which leads out of its folder. Do not open this model."
        )
    return folder / path


def _parts(folder: Path, place: str, kind: str) -> Iterator[tuple[str, str]]:
    """Folder and class of a module, and of those within it if it is a Router."""
    yield place, kind
    config = _settings(folder / place / "router_config.json")
    types = config.get("types") or (_settings(folder / place / "config.json").get("types") if not config else None)
    for name, inner in types.items() if isinstance(types, dict) else ():
        inside(folder / place, name, folder / place / "router_config.json")
        yield from _parts(folder, f"{place}/{name}".removeprefix("/"), str(inner))


def _part_files(folder: Path, place: str, known: Collection[str]) -> set[str]:
    """What lies in the folder of one module, and in those that Transformers and the other backends keep in it."""
    prefix = f"{place}/" if place else ""
    names = _names(folder, place)
    versions = _settings(folder / place / "tokenizer_config.json").get("fast_tokenizer_files")
    versions = {name for name in versions if isinstance(name, str)} if isinstance(versions, list) else set()
    found = {
        f"{prefix}{name}"
        for name in names
        if name in known
        or _WEIGHTS.fullmatch(name)
        or _BACKEND_WEIGHTS.fullmatch(name)
        or (name in versions and re.fullmatch(r"tokenizer\.[\w.]+\.json", name))
    }
    for index in (name for name in names if name.endswith(".safetensors.index.json") and prefix + name in found):
        shards = read_object(folder / place / index).get("weight_map")
        if isinstance(shards, dict):
            # `_WEIGHTS` knows the usual names of parts; an index may name others.
            found |= {f"{prefix}{name}" for name in names if name in shards.values() and name.endswith(".safetensors")}
    for backend, pattern in _BACKEND_FILES.items():
        within = f"{prefix}{backend}"
        found |= {f"{within}/{name}" for name in _names(folder, within) if pattern.fullmatch(name) or name in known}
    templates = f"{prefix}{_TEMPLATES}"
    return found | {f"{templates}/{name}" for name in _names(folder, templates) if name.endswith(".jinja")}


def _names(folder: Path, place: str) -> list[str]:
    """Names of what lies in a folder and is neither hidden nor a folder itself; none if there is no such folder."""
    within = folder / place
    if within.is_symlink() and within.is_dir() and not within.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{within} is a link that leads out of {folder}, and what lies elsewhere is not taken for a part of it. "
            "Put the folder itself in its place."
        )
    if not within.is_dir():
        return []
    names = []
    for path in within.iterdir():
        if path.is_symlink():
            _check_no_loop(path)
        if not path.is_dir() and not path.name.startswith("."):
            names.append(path.name)
    return names


def _check_no_loop(path: Path) -> None:
    try:
        target = path.resolve()
        path.stat()
    except FileNotFoundError:
        return  # a link to nothing: an error if it is needed
    except (OSError, RuntimeError) as error:  # a RuntimeError is a loop of links before Python 3.13
        raise ValueError(f"{path} is part of a loop of links. Take it away, or put a file in its place.") from error
    if target.is_dir() and path.parent.resolve().is_relative_to(target):
        raise ValueError(f"{path} is a link to a folder that it lies in: a loop. Take it away.")


def _settings(path: Path) -> Mapping[str, Any]:
    """A configuration that may be missing or somebody else's; what is wrong with it shows when the model is opened."""
    if not path.is_file():
        return {}
    content = read_json(path)
    return content if isinstance(content, dict) else {}


# --- custom code ---


def _code_references(folder: Path, place: str, kind: str) -> set[str]:
    """``file.Class`` of the code that ``modules.json`` or an ``auto_map`` names."""
    references = {kind} if not kind.startswith(_STOCK) else set()
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        named = _settings(folder / place / name).get("auto_map")
        for value in named.values() if isinstance(named, dict) else ():
            references |= {each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)}
    return {reference for reference in references if "--" not in reference}  # that is code in another repository


def _code_files(folder: Path, references: Collection[tuple[str, str]]) -> set[str]:
    """The files of the code, what they import from beside them, and the files in the modules' folders they mention."""
    places = sorted({place for place, _ in references} | {""})
    waiting = [
        f"{place}/{reference.rpartition('.')[0].replace('.', '/')}.py".removeprefix("/")
        for _, reference in references
        for place in places
    ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or not (folder / name).is_file():
            continue
        found.add(name)
        source = file_within(folder, folder / name).read_text(encoding="utf-8", errors="replace")
        imported, mentioned = _read_code(source)
        parent = PurePosixPath(name).parent
        for module in imported:
            path = (parent / module.replace(".", "/")).as_posix()
            waiting += [f"{path}.py", f"{path}/__init__.py"]
        for place in {*places, "" if parent.as_posix() == "." else parent.as_posix()}:
            found |= {f"{place}/{each}".removeprefix("/") for each in mentioned & set(_names(folder, place))}
    return found


def _read_code(source: str) -> tuple[set[str], set[str]]:
    """What a Python file imports from beside it, and the words in quotation marks in it."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return set(), set()
    imported: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            imported |= {node.module} if node.module else {alias.name for alias in node.names}
    words = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return imported, words
