"""Save a tiny model with this version of the package, with the vectors it gives, for later versions to open.

Writes tests/golden/v<version>/, once: a folder that is there already is never written again.

    python scripts/make_golden.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from benchmark_quality import ROOT
from check_versions import TEXTS, write_base_model
from sentence_transformers import SentenceTransformer

from st_adapter import QueryAdapter, __version__, save_adapter, save_pretrained
from st_adapter.saving import TrainingRecord
from st_adapter.saving.layouts import Layout
from st_adapter.storage.writing import folder_written_whole, write_json

GOLDEN = ROOT / "tests" / "golden" / f"v{__version__}"
LAYOUTS: tuple[Layout, ...] = ("document", "query", "twin")


def main() -> None:
    if GOLDEN.exists():
        raise SystemExit(f"{GOLDEN.relative_to(ROOT)} is there already; files of a version are written once.")
    with tempfile.TemporaryDirectory() as folder, folder_written_whole(GOLDEN) as golden:
        write_base_model(Path(folder) / "base")
        base = SentenceTransformer(str(Path(folder) / "base"), device="cpu")
        torch.manual_seed(0)
        adapter = QueryAdapter(32, "mlp", hidden_dim=8, bias=True)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        record = TrainingRecord(data="golden", seed=0)
        for layout in LAYOUTS:
            save_pretrained(base, adapter, golden / layout, layout=layout, training=record)
        save_adapter(adapter, golden / "adapter-alone", training=record)
        several = {"same": adapter, "none": QueryAdapter(32)}
        save_pretrained(base, several, golden / "tasks", default_task="same", training={"same": record})
        model = SentenceTransformer(str(golden / "document"), device="cpu")
        queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS)
        expected = {
            "texts": TEXTS,
            "queries": queries.tolist(),
            "documents": documents.tolist(),
            "scores": model.similarity(queries, documents).tolist(),
        }
        write_json(golden / "expected.json", expected)


if __name__ == "__main__":
    main()
