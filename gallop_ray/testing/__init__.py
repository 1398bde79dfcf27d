"""What every method must do, as tests that any package may run over its own: docs/howto/method.md.

    from gallop_ray.testing import check_method

    def test_shrink():
        check_method("my_masks:Shrink", {"density": 0.05})

Needs pytest for nothing: check_method raises AssertionError.
"""

from gallop_ray.testing.contract import CASES, Case, check_case, check_method
from gallop_ray.testing.ranks import Ranks, shared_ranks

__all__ = ["CASES", "Case", "Ranks", "check_case", "check_method", "shared_ranks"]
