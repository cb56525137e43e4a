"""Haystack for imrnn_vdb: a retriever and a ranker component over a collection in Qdrant or Milvus."""

from imrnn_vdb.errors import MissingExtraError

try:
    from imrnn_vdb_haystack.ranker import IMRNNRanker
    from imrnn_vdb_haystack.retriever import IMRNNRetriever
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "haystack":
        raise
    raise MissingExtraError("haystack-ai", "haystack") from exc

__all__ = ["IMRNNRanker", "IMRNNRetriever"]
