"""`pydocs`: the standard library's documentation as a collection, with labelled questions in programmers' words.

The collection is read from the running Python; the questions and their graded judgements were written for this project.
The test part asks about modules that the training part does not touch.
"""

from imrnn_vdb.pydocs.corpus import DocEntry, read_stdlib
from imrnn_vdb.pydocs.questions import Question, export_beir, read_questions

__all__ = ["DocEntry", "Question", "export_beir", "read_questions", "read_stdlib"]
