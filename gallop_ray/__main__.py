"""`python -m gallop_ray` is the command gallop-ray."""

import sys

from gallop_ray.cli import main

sys.exit(main())
