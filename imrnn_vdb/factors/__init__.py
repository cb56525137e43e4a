"""Factors beyond the shipped ones: one's own, topics of a collection, and how good all of them are."""
