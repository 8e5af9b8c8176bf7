"""Benchmarks of highgrad_ext against other ways to a Jacobian: ``python benchmarks/run.py``."""
