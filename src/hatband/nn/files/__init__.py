"""Files that hold fitted networks, and never execute code."""
