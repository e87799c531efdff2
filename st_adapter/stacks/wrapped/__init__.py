"""One file a stack, each imported when something of that stack is to be wrapped; see ``wrap``."""
