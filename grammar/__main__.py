"""Write tables.json from nn.lark."""

import json

import lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from . import START, TABLES, TEXT, key


def content() -> str:
    text = TEXT.read_text("utf-8")
    made = lark.Lark(text, parser="lalr", lexer="basic", start=list(START), propagate_positions=True)
    data, memo = made.memo_serialize([TerminalDef, Rule])
    whole = {"key": key(text, lark.__version__), "tables": {"data": data, "memo": memo}}
    return json.dumps(whole, separators=(",", ":"), sort_keys=True) + "\n"


if __name__ == "__main__":
    TABLES.write_text(content(), "ascii")
