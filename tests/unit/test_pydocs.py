from __future__ import annotations

from imrnn_vdb.pydocs import read_questions, read_stdlib


def test_the_standard_library_has_thousands_of_entries():
    entries = read_stdlib()
    assert len(entries) >= 2000
    assert len({entry.id for entry in entries}) == len({entry.text for entry in entries}) == len(entries)
    by_id = {entry.id: entry for entry in entries}
    assert by_id["os.path.join"].kind == "function"
    assert by_id["collections.deque.rotate"].module == "collections"
    assert " at 0x" not in "".join(entry.title for entry in entries)


def test_other_packages_do_not_leak_in():
    import logging

    def stranger(self):
        """A method that another package put into the standard library, with documentation."""

    stranger.__module__ = "some_package.logs"
    logging.Logger.stranger = stranger
    try:
        assert "logging.Logger.stranger" not in {entry.id for entry in read_stdlib()}
    finally:
        del logging.Logger.stranger


def test_the_test_part_covers_modules_that_training_does_not():
    def modules(split):
        return {key.partition(".")[0] for question in read_questions(split) for key in question.judgements}

    assert not modules("train") & modules("test")
    assert len(modules("test")) >= 20


def test_questions_are_many_distinct_and_graded():
    train, test = read_questions("train"), read_questions("test")
    assert len(train) + len(test) >= 300
    questions = [question.text.lower() for question in train + test]
    assert len(set(questions)) == len(questions)
    for question in train + test:
        assert set(question.judgements.values()) <= {1, 2}
        assert 2 in question.judgements.values()


def test_most_questions_have_their_answers_on_this_python():
    entries = read_stdlib()
    for split in ("train", "test"):
        assert len(read_questions(split, entries)) >= 0.9 * len(read_questions(split))
        known = {entry.id for entry in entries}
        assert all(set(q.judgements) <= known for q in read_questions(split, entries))
