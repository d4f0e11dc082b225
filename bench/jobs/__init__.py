"""The jobs of ``python -m bench``: one module each, which imports what all share."""
