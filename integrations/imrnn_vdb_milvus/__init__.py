"""Milvus for imrnn_vdb: Milvus servers, and Milvus Lite from a file. Importing this does not import ``pymilvus``."""

from imrnn_vdb_milvus.backend import MilvusBackend

__all__ = ["MilvusBackend"]
