# /// script
# requires-python = ">=3.10"
# dependencies = ["st-adapter[lancedb]", "lancedb"]
# ///
"""LanceDB, new tables: create them with `AdaptedEmbeddings`, and `table.search(text)` is adapted."""

import lancedb
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel

from st_adapter.stacks.lancedb import AdaptedEmbeddings


def embedders(model_path, query_model_path):
    function = AdaptedEmbeddings.create(name=model_path)
    return function.compute_query_embeddings, function.compute_source_embeddings


def index(folder, base_model_path, documents):
    # The table keeps the variable, not its value: after training, the adapted model takes the base model's place.
    get_registry().set_var("embedding_model", base_model_path)
    function = AdaptedEmbeddings.create(name="$var:embedding_model")

    class Document(LanceModel):
        id: str
        text: str = function.SourceField()
        vector: list[float] = function.VectorField()

    table = lancedb.connect(folder).create_table("documents", schema=Document)
    table.add([{"id": corpus_id, "text": text} for corpus_id, text in documents.items()])


def search(folder, model_path, queries, k):
    get_registry().set_var("embedding_model", model_path)
    table = lancedb.connect(folder).open_table("documents")
    found = [table.search(query).distance_type("cosine").limit(k).to_list() for query in queries]
    return [[(row["id"], row["_distance"]) for row in rows] for rows in found]


def stored_vectors(folder):
    rows = lancedb.connect(folder).open_table("documents").to_arrow().to_pylist()
    return {row["id"]: row["vector"] for row in rows}
