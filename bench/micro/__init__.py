"""Single rooms under pytest-benchmark: ``python -m pytest bench/micro``.

Not part of the test suite: nothing here fails by how long it takes.
"""
