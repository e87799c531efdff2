# /// script
# requires-python = ">=3.10"
# dependencies = ["st-adapter[llama-index]", "llama-index-core"]
# ///
"""LlamaIndex, one embedding for both: use `AdaptedEmbedding` as `embed_model`."""

from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.schema import TextNode

from st_adapter.stacks.llama_index import AdaptedEmbedding


def embedders(model_path, query_model_path):
    embedding = AdaptedEmbedding(model_path)
    return embedding.get_query_embedding, embedding.get_text_embedding_batch


def index(folder, base_model_path, documents):
    nodes = [TextNode(id_=corpus_id, text=text) for corpus_id, text in documents.items()]
    VectorStoreIndex(nodes, embed_model=AdaptedEmbedding(base_model_path)).storage_context.persist(folder)


def search(folder, model_path, queries, k):
    stored = StorageContext.from_defaults(persist_dir=folder)
    opened = load_index_from_storage(stored, embed_model=AdaptedEmbedding(model_path))
    retriever = opened.as_retriever(similarity_top_k=k)
    return [[(hit.node.node_id, hit.score) for hit in retriever.retrieve(query)] for query in queries]


def stored_vectors(folder):
    return StorageContext.from_defaults(persist_dir=folder).vector_store.data.embedding_dict
