"""Titles and explanations of diagnostics about the text of a spec, its names and its arguments."""

from __future__ import annotations

from .code import Code

CODES: dict[str, Code] = {
    "E101": Code(
        "`{character}` has no place in a spec",
        """
        A spec is made of names, numbers, strings in double quotes, brackets and a few operators. This character is
        none of them. Names use the letters a to z, digits and `_`, so that they are valid in every tool that reads
        the exported model.

            wrong:  größe = x -> dense(3);      right:  size = x -> dense(3)
        """,
    ),
    "E102": Code(
        "unexpected {what}",
        """
        The words up to here make sense, this one does not continue them. Often something before it is missing: an
        `=`, a comma, a value, a closing bracket.

            wrong:  h x -> dense(3)             right:  h = x -> dense(3)

        A file consists of `let`, `block`, `network`, `data`, `train`, `tune` and `export`; inside their braces stand
        `name = value` and, in networks and blocks, one `return`.
        """,
    ),
    "E103": Code(
        "`{bracket}` has no partner",
        """
        Every `(`, `[` and `{` needs its partner, in the right order. The place is where the mistake shows, which may
        be behind where it was made: look upward from there for a bracket that was left out.
        """,
    ),
    "E104": Code(
        "nested too deeply",
        """
        Brackets may be 60 deep, blocks 20. Deeper nesting is almost always a slip. Give parts names of their own:

            wrong:  f(g(h(...)))                right:  a = x -> h    b = a -> g    c = b -> f
        """,
    ),
    "E105": Code(
        "the file is too large",
        """
        A spec describes an experiment in a page or two; the limit is 100,000 bytes. Numbers belong into a data file
        that `csv`, `npz` or another source reads.
        """,
    ),
    "E106": Code(
        "the string is not closed",
        """
        A string ends on the line where it starts. A quote inside a string is written \\", a backslash \\\\.

            wrong:  source = csv("people.csv)   right:  source = csv("people.csv")
        """,
    ),
    "E107": Code(
        "the right side of `->` is no operation",
        """
        `x -> f` passes x to f as its first argument, so what stands right of the arrow must be an operation or a
        block. The pipe binds loosest of all: an operator right of it would belong to the operation.

            wrong:  x -> dense(4) + y           right:  (x -> dense(4)) + y
        """,
    ),
    "E108": Code(
        "`{number}` is no usable number",
        """
        Numbers are float64 or whole numbers of up to 40 characters: 3, 0.5, 1e-3, 80%. This one is longer, larger
        than about 1.8e308, or so small that it would silently become 0.
        """,
    ),
    "E109": Code(
        "a positional argument after a named one",
        """
        Positional arguments come first, then named ones; otherwise nobody can tell which argument is meant.

            wrong:  conv2d(kernel=3, 16)        right:  conv2d(16, kernel=3)
        """,
    ),
    "E110": Code(
        "{what} in one file",
        """
        A file describes one experiment: one `network`, and at most one `data`, `train`, `tune` and `export`. Reusable
        parts are blocks, and two experiments are two files.
        """,
    ),
    "E111": Code(
        "`{name}` is no text",
        """
        A spec is UTF-8 text. This file holds bytes that are no UTF-8: it may be in another encoding, or no text at
        all. Save it as UTF-8 in your editor.
        """,
    ),
    "E201": Code(
        "`{name}` is not known here",
        """
        Nothing with this name is in reach. Statements see the network's inputs, the statements above them and the
        `let`s; data names see the data names above them. Numbers, strings, `true` and `false` need no name.
        """,
    ),
    "E202": Code(
        "`{name}` is no {kind}",
        """
        Every word has a kind, and its place says which kind is meant: right of `->` a layer, activation or block,
        after `optimizer =` an optimizer, after `init=` an initialiser. This word is unknown there, or of another
        kind.

            wrong:  x -> adam(0.1)              right:  optimizer = adam(0.1)
        """,
    ),
    "E203": Code(
        "`{operation}` has no {thing} `{name}`",
        """
        Every argument is used or is an error, so that a slip of the finger cannot change an experiment silently. The
        message names the arguments or keys that there are; `nnc explain` and the reference page describe them.
        """,
    ),
    "E204": Code(
        "`{operation}` lacks {argument}",
        """
        An argument without a default was not given, or an operation was used without what it works on.

            wrong:  x -> dense                  right:  x -> dense(64)
            wrong:  loss = mse(y)               right:  loss = mse(y, target)
        """,
    ),
    "E205": Code(
        "too many arguments for `{operation}`",
        """
        There are more arguments without a name than the operation takes in that way. Most options have to be named,
        which also reads better.

            wrong:  dense(64, he_normal)        right:  dense(64, init=he_normal)
        """,
    ),
    "E206": Code(
        "{argument} must be {expected}",
        """
        The argument has another type than the operation takes. Strict typing catches slips early: 1 is not true, "3"
        is not 3, and 2.5 units do not exist. `/` always gives a float; where a whole number is wanted, divide with
        `//`.

            wrong:  dense(width / 2)            right:  dense(width // 2)
        """,
    ),
    "E207": Code(
        "{argument} is out of range: {value} is not {bound}",
        """
        The type is right and the value is not one that makes sense there: a rate of -1, a share of 80 where 80% is
        meant, 0 units. The message gives the limit and what the argument means.
        """,
    ),
    "E208": Code(
        "`{word}` is no value of {argument}",
        """
        Some arguments take one of a few words, written without quotes: padding=same. Others take a string, written
        with quotes: csv("file.csv"). This is a word that the argument does not know.
        """,
    ),
    "E209": Code(
        "`{name}` is given twice",
        """
        A name is given once in its section, and a key once. Two statements of one name would leave open which one is
        meant; number them, or call them by what they hold.

            wrong:  h = x -> relu   h = h -> dense(3)      right:  h = x -> relu   g = h -> dense(3)
        """,
    ),
    "E210": Code(
        "`{name}` is the name of {what}",
        """
        Nothing hides anything, except that a block's parameters hide `let`s. So statements and blocks may not be
        called like a layer or activation, data names not like a data step, a `let` not like a word that is a value
        (`same`, `median`), and an output not like a data name.
        """,
    ),
    "E212": Code(
        "the constant `{name}` is not used",
        """
        The constant is defined and used nowhere. Either its use was forgotten, or misspelt, or the line can go.
        Nothing in a spec is silently ignored.
        """,
    ),
    "E213": Code(
        "the block `{name}` is not used",
        """
        The block is defined and used nowhere. Use it with `x -> name(...)`, or remove it.
        """,
    ),
    "E214": Code(
        "the data name `{name}` is not used",
        """
        The data name feeds no input, is no target of the loss, and nothing else starts from it or stratifies by it. A
        data name feeds the network input of the same name: check the spelling of both.

            network(image: float32[64]) ...     data { image = column(pixels) ... }
        """,
    ),
    "E215": Code(
        "{name} {problem}",
        """
        Every part of a file takes part: an input leads to an output and, where there is a data section, is fed by the
        data name of the same name; every stage of a schedule is reached. This one would have been ignored.
        """,
    ),
    "E216": Code(
        "the block `{name}` uses itself",
        """
        Blocks are written out at compile time, so a block that contains itself, directly or through another one,
        would have no end. For several copies in a row use `repeat`:

            x -> repeat(3, residual(64))
        """,
    ),
    "E218": Code(
        "arithmetic on something that is no number",
        """
        `+ - * / //` work on numbers and on tensors. This is a string, a list, or true or false; `//` is for whole
        numbers, and tensors are divided with `/`.
        """,
    ),
    "E219": Code(
        "the arithmetic has no result",
        """
        A division by zero, or a result beyond what float64 (in networks float32) can hold. The compiler computes
        constants itself, so it notices before anything runs.
        """,
    ),
    "E220": Code(
        "there is no `let {name}` to set",
        """
        `--set name=value` and keyword arguments of nnc.compile replace a `let` constant of the file. The file has
        none of this name.

            let width = 64                      nnc train digits.nn --set width=128
        """,
    ),
    "E221": Code(
        "`{argument}` is given twice",
        """
        The argument or key is given twice, perhaps once by its position and once by its name. Keep one of them.

            wrong:  dense(64, units=32)         right:  dense(64)
        """,
    ),
    "E222": Code(
        "`{name}` is never used",
        """
        A statement or a parameter that nothing uses. In a network it would cost computing time and change nothing;
        more often its use was forgotten or misspelt.
        """,
    ),
    "E223": Code(
        "the {what} returns nothing",
        """
        A network or block ends with `return`, which names its results:

            network(x: float32[4]) { return y = x -> dense(3) }
        """,
    ),
    "E224": Code(
        "the return of a {what} is its one last statement",
        """
        A network or block has one `return`, and it stands last. Several outputs are joined by commas:

            wrong:  return a = x   return b = y     right:  return a = x, b = y
        """,
    ),
    "E225": Code(
        "a call gives {found} tensors",
        """
        A call gave another number of tensors than there are names for them, or gave several where one is wanted.

            a, b = x -> two_headed              # a block with `return a = ..., b = ...`
        """,
    ),
    "E226": Code(
        "one of several outputs has no name",
        """
        A single unnamed result is called `output`. Of several results each needs a name, for the loss and for the
        exported model.

            wrong:  return x -> dense(3), b = y     right:  return a = x -> dense(3), b = y
        """,
    ),
    "E227": Code(
        "a tensor is wanted, and this is {found}",
        """
        In a network values are tensors: inputs, statements and results of layers. Constants are `let`s at the top of
        the file, and an operation becomes a tensor by being applied.

            wrong:  h = relu                    right:  h = x -> relu
        """,
    ),
    "E228": Code(
        "{argument} has no effect here",
        """
        Another argument makes this one meaningless: an initial bias for a layer without a bias, a learning rate for
        what is frozen. It would have been ignored, and nothing in a spec is ignored.
        """,
    ),
}
