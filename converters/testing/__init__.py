"""What shows that a backend is right: the conformance suite, its networks, and its oracle.

::

    from converters.testing import conformance

    for case in conformance("fast"):  # a name, or a Backend of your own
        print(case.name, case.run())  # how many numbers were compared; an AssertionError says which one differs

In pytest::

    @pytest.mark.parametrize("case", conformance(MyBackend()), ids=lambda case: case.name)
    def test_my_backend(case):
        assert case.run() > 0
"""

from __future__ import annotations

from converters.testing.by_reference import Expected, by_reference
from converters.testing.conforming import Case, conformance

__all__ = ["Case", "Expected", "by_reference", "conformance"]
