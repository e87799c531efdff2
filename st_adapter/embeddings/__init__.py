"""A data set as vectors: the encoder and its identity, the cache, the vectors, exact search."""
