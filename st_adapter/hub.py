"""Upload a saved model to the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from sentence_transformers import SentenceTransformer

from st_adapter.adapter import QueryAdapter
from st_adapter.model import save_pretrained


def push_to_hub(
    adapter: QueryAdapter | None,
    model: SentenceTransformer,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Add model with query adapter",
) -> str:
    """Save base model and adapter as ``save_pretrained`` does, and upload the folder as one commit.

    Args:
        adapter: the trained adapter, or None for the base model alone.
        model: base model.
        repo_id: ``user/name``; created if it does not exist, else it gets a new commit.
        private: whether a new repository is private; the account's default if None.
        token: access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.
        commit_message: first line of the commit.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: as ``save_pretrained``.
        huggingface_hub.errors.HfHubHTTPError: the Hub refused, for instance because the token may not write.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        saved = save_pretrained(adapter, model, Path(folder) / repo_id.split("/")[-1])
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=repo_id, folder_path=saved, commit_message=commit_message).commit_url)
