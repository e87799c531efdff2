"""Read the recipes in docs/stacks/recipes/ and make docs/stacks/README.md from them.

python scripts/stack_recipes.py  # rewrite the page
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark_quality import ROOT

FOLDER = ROOT / "docs" / "stacks"
PAGE = FOLDER / "README.md"
RESULTS = ROOT / "scripts" / "results" / "check_stacks.json"
OWN_PACKAGE = "st-adapter"
# The embedded form of PEP 723.
_METADATA = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_HEAD = """\
# Stacks

A saved model applies the adapter to queries if the stack says that they are queries: `encode_query(...)`, or
`encode(..., task="query", prompt_name="query")`. Many stacks call plain `encode(...)` for both sides; they get the
base model's vectors and no error. For each stack, this page says which setting makes it right. The index stays as it
is: it was built with the base model and is never embedded again.

In the recipes, `model_path` is the folder that `save_pretrained` wrote, or its Hub id. `query_model_path` is the same
model with another default: its plain `encode(...)` is adapted. On the Hub it is the branch `query` of the same
repository (`revision="query"`). `onnx_model_path` is the folder with the ONNX files that
`save_pretrained(..., onnx=True)` adds: `onnx/model_query.onnx` for queries, and for documents `onnx/model.onnx`, or
`onnx/model_document.onnx` where there is one (the base model does more than pooling and normalizing). In
`SentenceTransformer(..., backend="onnx")` only `onnx/model.onnx` is right, for both sides: it ends at the transformer,
and pooling, later modules and the adapter are put on it. The other two hold finished vectors, and it refuses them.

A model [with another query model](../query_model.md) takes the same recipes. `model_path` is then the model of two,
right where one embedding serves both sides, and `query_model_path` the query model's part alone: branch `query`, or
what `save_query_part("out/model", "for-queries")` of `st_adapter.saving` writes. The query model is never used without
the map that is saved behind it, and documents are embedded by the model that the index was made with.

Whether your own stack does it right is told by `check_stack`, with the functions that you search with:

```python
from st_adapter import check_stack

print(check_stack("model-with-adapter", embed_query, embed_documents))
```
```bash
st-adapter check my_app:embed_query my_app:embed_documents --model model-with-adapter
```

It embeds a few texts and names what is wrong: adapter missing, on documents or applied twice, another base model, a
prompt missing or too much, no normalisation, truncated vectors, swapped models, another order; with two models, one
in the other's place, and a query model without its map.

A model with [several adapters](../ideas/saving.md#several) is told the task of a query where a recipe says
`task="query"`: `{"task": "legal", "prompt_name": "query"}` in LangChain's `query_encode_kwargs` and Haystack's
`encode_kwargs`, and `model.encode(queries, task="legal", prompt_name="query")` where the recipe passes vectors. For
LlamaIndex, Chroma and others that cannot pass it on, `st_adapter.stacks.wrap(embedding, model_path, task="legal")`
puts the adapter on what they embed queries with, the base model. `encode_query` and the branch `query` are those of the
default task, if the model was saved with one. `check_stack(..., task="legal")` and `st-adapter check --task legal`
tell one task from another.
"""


@dataclass(frozen=True)
class Recipe:
    """One file of docs/stacks/recipes/.

    Attributes:
        path: the file.
        title: name of the stack, in front of the colon of the docstring.
        setting: what makes it right, the rest of the docstring.
        requirements: what to install, the stack itself first; of npm for a recipe in JavaScript.
        functions: names of its functions.
        code: the file below its docstring.
    """

    path: Path
    title: str
    setting: str
    requirements: tuple[str, ...]
    functions: tuple[str, ...]
    code: str

    @property
    def name(self) -> str:
        """What ``--only`` takes."""
        return self.path.stem

    @property
    def is_javascript(self) -> bool:
        """Whether it runs in Node.js and its packages come from npm."""
        return self.path.suffix == ".mjs"

    @property
    def needs_st_adapter(self) -> bool:
        """Whether it uses a class of ours."""
        return any(requirement.startswith(OWN_PACKAGE) for requirement in self.requirements)


def recipes() -> list[Recipe]:
    """All recipes, Sentence Transformers first."""
    paths = [path for pattern in ("*.py", "*.mjs") for path in (FOLDER / "recipes").glob(pattern)]
    found = [read_javascript(path) if path.suffix == ".mjs" else read(path) for path in sorted(paths)]
    return sorted(found, key=lambda recipe: (recipe.name != "sentence_transformers_alone", recipe.title.lower()))


def read(path: Path) -> Recipe:
    """Read one recipe.

    Raises:
        ValueError: its metadata or its docstring is missing.
    """
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    metadata = _METADATA.search(text)
    title, colon, setting = (ast.get_docstring(tree) or "").partition(": ")
    if metadata is None or not colon:
        raise ValueError(
            f"{path} has no PEP 723 metadata or no docstring of the form 'Stack: which setting makes it right.'. "
            "Start from another recipe in its folder."
        )
    content = "".join(line[2:] for line in metadata["content"].splitlines(keepends=True))
    # An array of plain strings is the same in TOML and in Python.
    array = re.search(r"(?m)^dependencies = (\[.*\]|\[\n(?:.*\n)*?\])$", content)
    if array is None:
        raise ValueError(f"{path} has no 'dependencies = [...]' in its metadata. Name the stack's own package first.")
    requirements = ast.literal_eval(array[1])
    docstring = tree.body[0]
    return Recipe(
        path=path,
        title=title,
        setting=setting.strip(),
        requirements=tuple(requirements),
        functions=tuple(node.name for node in tree.body if isinstance(node, ast.FunctionDef)),
        code="".join(text.splitlines(keepends=True)[docstring.end_lineno :]).strip("\n"),
    )


def read_javascript(path: Path) -> Recipe:
    """Read a recipe in JavaScript: metadata and docstring are its first comment.

    Raises:
        ValueError: its first comment is of another form.
    """
    text = path.read_text(encoding="utf-8")
    head = re.match(
        r"// /// script\n// dependencies = (?P<array>\[.*\])\n// ///\n// (?P<title>.*?): (?P<setting>.*(?:\n// .*)*)\n",
        text,
    )
    if head is None:
        raise ValueError(
            f"{path} does not start with '// /// script', '// dependencies = [...]', '// ///' and a line of the form "
            "'// Stack: which setting makes it right.'. Start from another recipe in its folder."
        )
    return Recipe(
        path=path,
        title=head["title"],
        setting=head["setting"].replace("\n// ", " "),
        requirements=tuple(ast.literal_eval(head["array"])),
        functions=tuple(re.findall(r"(?m)^export (?:async )?function (\w+)", text)),
        code=text[head.end() :].strip("\n"),
    )


def page(results: dict[str, Any]) -> str:
    """docs/stacks/README.md: the settings in a table, then every recipe as it is run."""
    parts = [_HEAD, markdown_table(results), ""]
    for recipe in recipes():
        named = " ".join(f'"{name}"' if set("[<>") & set(name) else name for name in recipe.requirements)
        install = f"{'npm' if recipe.is_javascript else 'pip'} install {named}"
        parts += [
            f"## {recipe.title}\n",
            f"{recipe.setting}\n",
            f"```bash\n{install}\n```\n",
            f"```{'javascript' if recipe.is_javascript else 'python'}\n{recipe.code}\n```\n",
            f"[`{recipe.path.name}`](recipes/{recipe.path.name})\n",
        ]
    return "\n".join(parts).rstrip("\n") + "\n"


def markdown_table(results: dict[str, Any], *, folder: str = "") -> str:
    """Stack, version, recipe, verified or why not.

    Args:
        results: content of scripts/results/check_stacks.json.
        folder: where the recipes' folder lies, seen from the page: ``docs/stacks/`` for the README.
    """
    lines = ["| stack | version | setting | verified |", "|---|---|---|---|"]
    listed = {recipe.name: recipe for recipe in recipes()}
    for name, recipe in listed.items():
        entry = results["stacks"].get(name)
        version = entry["version"] if entry and entry["version"] else "–"
        verified = "not run" if entry is None else entry["date"] if entry["verified"] else f"no: {entry['reason']}"
        link = f"[{recipe.title}]({folder}recipes/{recipe.path.name})"
        lines.append(f"| {link} | {version} | {recipe.setting} | {verified} |")
    for name, entry in results["stacks"].items():
        if name not in listed:
            lines.append(f"| {entry['stack']} | – | – | no: {entry['reason']} |")
    return "\n".join(lines)


def write_page() -> None:
    """Rewrite docs/stacks/README.md."""
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    write_page()
