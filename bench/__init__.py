"""The benchmark: NumPy against Cython on real training. Run it with ``python -m bench``."""
