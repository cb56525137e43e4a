"""Qdrant for imrnn_vdb: servers, qdrant-client's local mode, and Qdrant Edge in this process."""
