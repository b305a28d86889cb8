"""A trained model that leaves the search: written, checked against what was trained, described, and run elsewhere."""
