"""Articles, retrieval, citations."""
