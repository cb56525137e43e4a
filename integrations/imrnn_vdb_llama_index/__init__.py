"""LlamaIndex for imrnn_vdb: a retriever and a node postprocessor over an :class:`imrnn_vdb.IMRNNCollection`."""

from imrnn_vdb.errors import MissingExtraError

try:
    from imrnn_vdb_llama_index.rerank import IMRNNRerank
    from imrnn_vdb_llama_index.retriever import IMRNNRetriever
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "llama_index":
        raise
    raise MissingExtraError("llama-index-core", "llama-index") from exc

__all__ = ["IMRNNRerank", "IMRNNRetriever"]
