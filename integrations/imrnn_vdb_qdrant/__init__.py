"""Qdrant for imrnn_vdb: servers, qdrant-client's local mode, and Qdrant Edge in this process."""

from imrnn_vdb_qdrant.backend import QdrantBackend

__all__ = ["QdrantBackend"]
