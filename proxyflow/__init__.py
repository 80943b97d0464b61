"""proxyflow: large objects travel between Python tasks as small lazy proxies."""
