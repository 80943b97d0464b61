"""Storage systems, each complete in its own right; they know nothing of proxies."""
