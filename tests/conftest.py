"""The suite runs on NumPy's engine, whose loops need no compiling; NNC_ENGINE=fast in the environment runs it on the other one."""

import os

os.environ.setdefault("NNC_ENGINE", "numpy")
os.environ.pop("PYTHONUNBUFFERED", None)  # users have it not: what an output does not take shows when it is flushed
