"""Training: labels in, a better ranking out, with evidence (DESIGN.md §8)."""
