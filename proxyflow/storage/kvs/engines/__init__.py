"""Where a tree can be kept: one module for each engine, imported when a URL names it."""
