"""Storage systems seen as put, get, exists and evict of bytes."""
