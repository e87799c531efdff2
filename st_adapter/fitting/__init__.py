"""From labelled pairs of vectors to an adapter, chosen and tested on queries that it has not seen."""
