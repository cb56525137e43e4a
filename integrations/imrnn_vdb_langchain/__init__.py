"""LangChain for imrnn_vdb: a retriever and a document compressor over an :class:`imrnn_vdb.IMRNNCollection`."""

from imrnn_vdb.errors import MissingExtraError

try:
    from imrnn_vdb_langchain.rerank import IMRNNRerank
    from imrnn_vdb_langchain.retriever import IMRNNRetriever
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "langchain_core":
        raise
    raise MissingExtraError("langchain-core", "langchain") from exc

__all__ = ["IMRNNRerank", "IMRNNRetriever"]
