"""Which trials are worth running, and what came of them: sampling, stopping, results and the report."""
