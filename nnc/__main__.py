"""`python -m nnc` is the command `nnc`."""

from .cli import main

raise SystemExit(main())
