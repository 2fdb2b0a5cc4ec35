"""Every code with its title and its explanation: the one place of this prose. `nnc explain CODE` prints it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    title: str
    explanation: str = ""


CODES: dict[str, Code] = {
    "E101": Code("`{character}` has no place in a spec"),
    "E102": Code("unexpected {what}"),
    "E103": Code("`{bracket}` has no partner"),
    "E104": Code("nested too deeply"),
    "E105": Code("the file is too large"),
    "E106": Code("the string is not closed"),
    "E107": Code("the right side of `->` is no operation"),
    "E108": Code("`{number}` is no usable number"),
    "E109": Code("a positional argument after a named one"),
    "E110": Code("{what} in one file"),
    "E111": Code("`{name}` is no text"),
    "E201": Code("`{name}` is not known here"),
    "E202": Code("`{name}` is no {kind}"),
    "E203": Code("`{operation}` has no {thing} `{name}`"),
    "E204": Code("`{operation}` lacks {argument}"),
    "E205": Code("too many arguments for `{operation}`"),
    "E206": Code("{argument} must be {expected}"),
    "E207": Code("{argument} is out of range: {value} is not {bound}"),
    "E208": Code("`{word}` is no value of {argument}"),
    "E209": Code("`{name}` is given twice"),
    "E210": Code("`{name}` is the name of {what}"),
    "E212": Code("the constant `{name}` is not used"),
    "E213": Code("the block `{name}` is not used"),
    "E214": Code("the data name `{name}` is not used"),
    "E215": Code("{name} {problem}"),
    "E216": Code("the block `{name}` uses itself"),
    "E217": Code("{what} is not available in this version"),
    "E218": Code("arithmetic on something that is no number"),
    "E219": Code("the arithmetic has no result"),
    "E220": Code("there is no `let {name}` to set"),
    "E221": Code("`{argument}` is given twice"),
    "E222": Code("`{name}` is never used"),
    "E223": Code("the {what} returns nothing"),
    "E224": Code("the return of a {what} is its one last statement"),
    "E225": Code("a call gives {found} tensors"),
    "E226": Code("one of several outputs has no name"),
    "E227": Code("a tensor is wanted, and this is {found}"),
    "E228": Code("{argument} has no effect here"),
    "E301": Code("{argument} is larger than its input"),
    "E302": Code("`{operation}` of tensors whose shapes differ"),
    "E303": Code("`{operation}` does not take a sample of this rank"),
    "E304": Code("{size} elements do not fit into {shape}"),
    "E305": Code("`{operation}` does not take {dtype}"),
    "E306": Code("{groups} groups do not divide the channels"),
    "E307": Code("{what} is too large"),
    "E308": Code("the windows do not divide the input exactly"),
    "E309": Code("there is no axis {axis}"),
    "E310": Code("the shared parameter `{name}` would have two shapes"),
    "E311": Code(
        "the table of `{name}` has too few rows",
        "A category of k classes gives the indices 0..k-1, and k for values that training has not seen. An embedding wants at least k rows; with "
        "exactly k, unseen values are refused when they come; with k + 1 there is a row for them.",
    ),
    "E401": Code("`{path}` is not there"),
    "E402": Code("the source has no column `{column}`"),
    "E403": Code("`{path}` is ragged at line {line}"),
    "E404": Code("`{step}` does not fit the column"),
    "E405": Code("`{name}` holds {what}"),
    "E406": Code("`{name}` holds a class that training has not seen"),
    "E407": Code("the data of {name} has another shape or type"),
    "E408": Code("the shares of the split do not sum to 1"),
    "E409": Code("`{path}` lies outside the data root"),
    "E410": Code("`{path}` cannot be read"),
    "E411": Code("the {split} split would be empty"),
    "E412": Code("`{name}` has no classes to stratify by"),
    "E413": Code(
        "`{step}` does not fit where it stands",
        "A window makes samples of several rows. Steps that learn (standardize, category, ...) learn from rows, so they stand before it; there is one "
        "window at most; and where one data name is made of windows, all that feed the network or the loss are, with the same stride.\n\n"
        "    series  = column(value) -> min_max\n    history = series -> window(length=12)\n    next    = series -> window(length=1, offset=12)",
    ),
    "E414": Code(
        "a random split of overlapping windows",
        "Windows that overlap share rows. Split at random, rows of the validation part would stand in training windows as well, and its figures would "
        "say nothing. `ordered` cuts the rows in time: a window belongs to the part that holds all its target rows.",
    ),
    "E501": Code("there is no {what} `{name}`"),
    "E502": Code("prediction and target of {loss} do not fit"),
    "E503": Code("{classes} classes for {outputs} outputs"),
    "E504": Code("`{metric}` {problem}"),
    "E505": Code("training through `step` has no gradient"),
    "E506": Code("the penalty wants the number of samples, and there is no data section"),
    "E507": Code("`{name}` needs a {split} split"),
    "E508": Code("no parameter is called `{name}`"),
    "E509": Code("there is nothing to train: {problem}"),
    "E510": Code("{what} became NaN or infinite at step {step}"),
    "E511": Code("the run cannot be resumed: {problem}"),
    "E512": Code("`{file}` does not fit the network"),
    "E513": Code("the batch does not fit the program"),
    "E514": Code("training needs a {missing} section"),
    "E515": Code(
        "`{layer}` has no row for the index {index}",
        "An embedding takes the indices 0..rows-1. A category of k classes gives 0..k-1, and k for a value that training has not seen: a "
        "table of k + 1 rows has one for it, a table of k rows refuses it when it comes.",
    ),
    "E516": Code(
        "`{optimizer}` {problem}",
        "newton, hessian_free, conjugate_gradient and lbfgs compare values of one objective along a line, so every step must see the same "
        "rows (batch = full) and treat all parameters alike. newton writes down the whole Hessian, n by n numbers for n parameters, "
        "and solves a system with it: n^3 operations.",
    ),
    "E601": Code("the exported model does not agree with the runtime"),
    "E602": Code("there is no output or target `{name}`"),
    "E603": Code("`{name}` is no file name for a model"),
    "E604": Code("opset {opset} cannot express {what}"),
    "E605": Code("the model is too large for one ONNX file"),
    "E606": Code("`{name}` is the target of two predictions"),
    "E701": Code("cannot write `{path}`"),
    "E702": Code("`{path}` is damaged or not of this program"),
    "E703": Code("{what} is missing on this machine"),
    "E704": Code("`{path}` is in use"),
    "E705": Code(
        "memory ran out",
        "The system gave no more memory. `nnc summary` says what a network needs; a smaller `batch` needs less, and so do fewer "
        "or narrower layers. Sizes that cannot fit are refused before anything runs, with --max-bytes as the limit.",
    ),
    "E706": Code(
        "the system refused `{path}`",
        "Reading or writing failed for a reason outside nnc: permissions, a directory where a file is expected, a full disk.",
    ),
    "W301": Code("a bias before batch_norm does nothing"),
    "W302": Code("dropout keeps less than half"),
    "W303": Code("dropout on an output"),
    "W304": Code("equal initial weights in a hidden layer"),
    "W305": Code("{init} before a rectifier"),
    "W306": Code("a dense layer on an image"),
    "W307": Code("sigmoids in deep hidden layers"),
    "W501": Code("a squared loss after softmax"),
    "W502": Code("a regression that ends with {activation}"),
    "W503": Code("l2 under {optimizer}"),
    "W504": Code("batch_norm with batch 1"),
    "W505": Code("{loss} of an output layer without {wanted}"),
    "W506": Code("{loss} of classes"),
    "W507": Code("sigmoids for classes that exclude each other"),
    "W508": Code("softmax over one output is always 1"),
    "W509": Code("training ends before `{name}` begins"),
}
