"""How to reach or start a Ray cluster."""
