"""Milvus for imrnn_vdb: servers, and Milvus Lite in this process."""
