"""Every code with its title and its explanation, in four modules by subject. `nnc explain CODE` prints them."""

from __future__ import annotations

from . import codes_advice, codes_language, codes_model, codes_run
from .code import Code

CODES: dict[str, Code] = codes_language.CODES | codes_model.CODES | codes_run.CODES | codes_advice.CODES
