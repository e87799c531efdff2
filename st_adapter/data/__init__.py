"""From files, frames and the Hub to a retrieval data set, and its splits."""
