"""From an adapter and a base model to a repository, and back; the Hub and the model card."""
