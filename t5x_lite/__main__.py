"""`python -m t5x_lite` is `t5x_lite`."""

import sys

from t5x_lite import main

sys.exit(main.main())
