"""Translation between results and LlamaIndex's nodes and queries."""

from __future__ import annotations

from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node

from imrnn_vdb.core import Query
from imrnn_vdb.framework import METADATA_KEY, details, told_id
from imrnn_vdb.points import PointId
from imrnn_vdb.results import SearchResult


def query_of(bundle: QueryBundle) -> Query:
    """Return the bundle's embedding where it has one, else its text."""
    return bundle.query_str if bundle.embedding is None else np.asarray(bundle.embedding, np.float32)


def node_of(result: SearchResult, text_field: str) -> NodeWithScore:
    """Return a result as a node: the very node, where one of LlamaIndex's vector stores wrote the payload."""
    payload = dict(result.payload)
    if "_node_content" in payload:
        return NodeWithScore(node=with_details(_stored(payload, text_field), details(result)), score=result.score)
    text = payload.pop(text_field, None)
    node = TextNode(id_=str(result.id), text="" if text is None else str(text), metadata=payload)
    return NodeWithScore(node=with_details(node, details(result)), score=result.score)


def with_details(node: BaseNode, told: dict[str, Any]) -> BaseNode:
    """Return a copy of a node with the details in its metadata, where neither a prompt nor an embedding shows them."""
    return node.model_copy(
        update={
            "metadata": {**node.metadata, METADATA_KEY: told},
            "excluded_embed_metadata_keys": _with_key(node.excluded_embed_metadata_keys),
            "excluded_llm_metadata_keys": _with_key(node.excluded_llm_metadata_keys),
        }
    )


def point_id(node: BaseNode) -> PointId:
    """Return the point that a node was read from: as its details say, else by its own id."""
    found = told_id(node.metadata)
    return node.node_id if found is None else found


def _stored(payload: dict[str, Any], text_field: str) -> BaseNode:
    """Return the node of a payload; its text lies beside it where a store, such as Milvus's, keeps it only once."""
    node = metadata_dict_to_node(payload)
    text = payload.get(text_field)
    if text is not None and not node.get_content(MetadataMode.NONE):
        node.set_content(str(text))
    return node


def _with_key(keys: list[str]) -> list[str]:
    return keys if METADATA_KEY in keys else [*keys, METADATA_KEY]
