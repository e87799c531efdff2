# /// script
# requires-python = ">=3.10"
# dependencies = ["llama-index-embeddings-huggingface", "sentence-transformers"]
# ///
"""LlamaIndex: give the retriever an embedding of its own, loaded with `revision="query"`, and the model's prompts."""

from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from sentence_transformers import SentenceTransformer


def embedding(model_path):
    # LlamaIndex puts instructions of its own in the place of the model's prompts.
    prompts = SentenceTransformer(model_path).prompts
    return HuggingFaceEmbedding(
        model_path, query_instruction=prompts.get("query"), text_instruction=prompts.get("document"), normalize=False
    )


def embedders(model_path, query_model_path):
    return embedding(query_model_path).get_query_embedding, embedding(model_path).get_text_embedding_batch


def index(folder, base_model_path, documents):
    nodes = [TextNode(id_=corpus_id, text=text) for corpus_id, text in documents.items()]
    VectorStoreIndex(nodes, embed_model=embedding(base_model_path)).storage_context.persist(folder)


def search(folder, query_model_path, queries, k):
    stored = StorageContext.from_defaults(persist_dir=folder)
    opened = load_index_from_storage(stored, embed_model=embedding(query_model_path))
    retriever = opened.as_retriever(similarity_top_k=k)
    return [[(hit.node.node_id, hit.score) for hit in retriever.retrieve(query)] for query in queries]


def stored_vectors(folder):
    return StorageContext.from_defaults(persist_dir=folder).vector_store.data.embedding_dict
