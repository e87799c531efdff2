"""A Hub in memory and the real client in a process of its own."""
