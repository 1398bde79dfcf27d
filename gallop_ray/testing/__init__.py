"""Contract tests for methods, metrics and samplers, which any package can run on its own: docs/howto/method.md.

    from gallop_ray.testing import check_method

    def test_shrink():
        check_method("my_masks:Shrink", {"density": 0.05})

Works without pytest: a check raises AssertionError.
"""

from gallop_ray.testing.contract import CASES, Case, check_case, check_method
from gallop_ray.testing.plugins import check_metric, check_sampler
from gallop_ray.testing.ranks import Ranks, shared_ranks

__all__ = ["CASES", "Case", "Ranks", "check_case", "check_method", "check_metric", "check_sampler", "shared_ranks"]
