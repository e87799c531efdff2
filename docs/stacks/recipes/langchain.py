# /// script
# requires-python = ">=3.10"
# dependencies = ["langchain-huggingface", "sentence-transformers"]
# ///
"""LangChain: pass `task` and `prompt_name` in `query_encode_kwargs`, which otherwise stay those of documents."""

from langchain_huggingface import HuggingFaceEmbeddings


def embedders(model_path, query_model_path):
    embeddings = HuggingFaceEmbeddings(
        model_name=model_path,
        encode_kwargs={"prompt_name": "document"},
        query_encode_kwargs={"task": "query", "prompt_name": "query"},
    )
    return embeddings.embed_query, embeddings.embed_documents
