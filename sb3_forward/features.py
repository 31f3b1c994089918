"""Keep the old name of :mod:`sb3_forward.inspect.metrics`, which has moved, until version 0.3."""

import warnings

from sb3_forward.inspect.metrics import *  # noqa: F403

warnings.warn("sb3_forward.features has moved to sb3_forward.inspect.metrics.", DeprecationWarning, stacklevel=2)
