"""How well queries find their documents: search, metrics, and what a difference is worth."""
