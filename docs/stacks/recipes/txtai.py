# /// script
# requires-python = ">=3.10"
# dependencies = ["txtai", "sentence-transformers"]
# ///
"""txtai: pass `method="sentence-transformers"`; an index that is there is loaded with the adapted model's `path`."""

from txtai import Embeddings


def embedders(model_path, query_model_path):
    embeddings = Embeddings(path=model_path, method="sentence-transformers")
    return (
        lambda queries: embeddings.batchtransform(queries, "query"),
        lambda documents: embeddings.batchtransform(documents, "data"),
    )


def index(folder, base_model_path, documents):
    embeddings = Embeddings(path=base_model_path, method="sentence-transformers")
    embeddings.index((corpus_id, text, None) for corpus_id, text in documents.items())
    embeddings.save(folder)


def search(folder, model_path, queries, k):
    return Embeddings().load(folder, config={"path": model_path}).batchsearch(queries, k)


def stored_vectors(folder):
    embeddings = Embeddings().load(folder)
    faiss_index = embeddings.ann.backend.index
    return dict(zip(embeddings.ids, faiss_index.reconstruct_n(0, faiss_index.ntotal), strict=True))
