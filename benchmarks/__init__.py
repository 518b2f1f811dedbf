"""Benchmarks of keras_comet; `python -m benchmarks` runs all of them."""
