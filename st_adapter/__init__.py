"""Teach a Sentence Transformers model your domain without re-embedding a single document."""

__version__ = "0.1.0"
