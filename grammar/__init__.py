"""The syntax of .nn files. nn.lark is its only definition; tables.json is what lark makes of it, so that a start does not wait for that.

`python -m nnc.grammar` writes the tables anew. They carry the text that they were made from and lark's version: where either differs, they are
not used. nn.tmLanguage.json colours specs in editors; the tests keep it at nn.lark's words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = Path(__file__).with_name("nn.lark")
TABLES = Path(__file__).with_name("tables.json")
START = ("item", "pipe")


def key(text: str, lark_version: str) -> dict[str, str]:
    """What tables depend on."""
    return {"grammar": text, "lark": lark_version}


def tables(text: str, lark_version: str) -> dict[str, Any] | None:
    """The tables of this text, or None where there are none for it."""
    try:
        content: dict[str, Any] = json.loads(TABLES.read_text("ascii"))
    except (OSError, ValueError):
        return None
    if content.get("key") != key(text, lark_version):
        return None
    found: dict[str, Any] = content["tables"]
    parser = found["data"]["parser"]["parser"]
    found["memo"], parser["tokens"] = _numbered(found["memo"]), _numbered(parser["tokens"])
    parser["states"] = {state: _numbered(actions) for state, actions in _numbered(parser["states"]).items()}
    return found


def _numbered(by_text: dict[str, Any]) -> dict[int, Any]:
    """JSON makes strings of the numbers that states and tokens are called by."""
    return {int(k): v for k, v in by_text.items()}
