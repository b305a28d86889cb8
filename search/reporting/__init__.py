"""The report of a run: :mod:`search.reporting.record` reads its folder, :mod:`search.reporting.build` writes."""
