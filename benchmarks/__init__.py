"""Measurements, run by hand (``make bench``), and no tests. Figures of record stand in docs/performance.md."""
