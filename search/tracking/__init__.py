"""Weights & Biases: a process beside the search mirrors the run's folder into one sweep, one run a trial.

The search itself never talks to W&B. What it records is durable first, and whoever mirrors it reads only that, asks
W&B what is there already and sends the rest: live beside the search, in a later one that resumes it, or by
``python -m search.sync``. So W&B can slow, stop or lose nothing.
"""
