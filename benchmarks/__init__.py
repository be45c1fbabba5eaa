"""Measurements, run by hand (``make bench``); nothing here is a test. Figures of record stand in docs/performance.md."""
