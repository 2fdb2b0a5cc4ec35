"""Titles and explanations of diagnostics about export, this machine, and advice."""

from __future__ import annotations

from .code import Code

CODES: dict[str, Code] = {
    "E601": Code(
        "the exported model does not agree with the runtime",
        """
        Before an exported file is given out, onnxruntime runs it on real rows and the outputs are compared with the
        runtime's. They differ by more than rounding explains, so nothing was written: a file that computes something
        else is worse than none.
        """,
    ),
    "E602": Code(
        "there is no output or target `{name}`",
        """
        `outputs` lists outputs of the network, and targets of the loss. A target stands for the decision on the
        prediction that it is paired with, decoded to the original category.
        """,
    ),
    "E603": Code(
        "`{name}` is no file name for a model",
        """
        The exported file is written into the output directory, so its name has no directories in it and ends with
        .onnx.
        """,
    ),
    "E605": Code(
        "the model is too large for one ONNX file",
        """
        An ONNX file is one protobuf message, which holds less than 2 GiB. Use fewer units.
        """,
    ),
    "E606": Code(
        "`{name}` is the target of two predictions",
        """
        A target in `outputs` stands for the decision on the prediction that the loss pairs it with. This one is
        paired with several, so it is not clear whose decision is meant. Export the predictions themselves.
        """,
    ),
    "E701": Code(
        "cannot write `{path}`",
        """
        The operating system refused to write: no space, no permission, or a directory that is not there. Files are
        written whole or not at all, so what was there before is still there.
        """,
    ),
    "E702": Code(
        "`{path}` is damaged or not of this program",
        """
        Everything that nnc writes carries a SHA-256 of its content. It does not fit here, or the file was written by
        something else: it was cut short, changed, or damaged on the way. It is not used, not even in part.
        """,
    ),
    "E704": Code(
        "`{path}` is in use",
        """
        The place is taken: by another training that is running, by a file, or by files that nnc did not write and
        will not overwrite. Choose another place.
        """,
    ),
    "E705": Code(
        "memory ran out",
        """
        The system gave no more memory. `nnc summary` says what a network needs; a smaller `batch` needs less, and so
        do fewer or narrower layers. Sizes that cannot fit are refused before anything runs, with --max-bytes as the
        limit.
        """,
    ),
    "E706": Code(
        "the system refused `{path}`",
        """
        Reading or writing failed for a reason outside nnc: permissions, a directory where a file is expected, a full
        disk. What was saved before is whole; `--resume` goes on from there.
        """,
    ),
    "E707": Code(
        "`{package}` is not installed",
        """
        What nnc needs for some sources only is not installed with it. Install it when you need it:

            pip install 'nnc-lang[parquet]'     parquet files
            pip install 'nnc-lang[images]'      folders of images
        """,
    ),
    "W301": Code(
        "a bias before batch_norm does nothing",
        """
        batch_norm subtracts the mean of each channel, (z + b) - mean(z + b) = z - mean(z), so a bias before it
        cancels out, and its gradient is 0. The norm has a bias of its own.

            dense(64, bias=false) -> batch_norm -> relu
        """,
    ),
    "W302": Code(
        "dropout keeps less than half",
        """
        Dropout multiplies by a random mask and divides by the share that is kept. Below one half the noise exceeds
        the signal: the variance of m / keep is (1 - keep) / keep, above 1. A rate of 0.5 regularises most already.
        """,
    ),
    "W303": Code(
        "dropout on an output",
        """
        Dropout after the last layer sets predictions to 0 at random in training, and the loss takes them for
        mistakes. Its place is before the last layer with weights.
        """,
    ),
    "W304": Code(
        "equal initial weights in a hidden layer",
        """
        Units that start equal get equal gradients and stay equal: a layer of n such units computes what one would.
        Random starts break the symmetry. Biases and the last layer may start at 0.
        """,
    ),
    "W305": Code(
        "{init} before a rectifier",
        """
        Xavier's variance 2 / (in + out) keeps the size of activations where the activation is nearly linear around 0,
        like tanh. A rectifier sets half of its inputs to 0 and halves the second moment; He's 2 / in makes up for
        that. Without it the signal shrinks by about sqrt(2) a layer.
        """,
    ),
    "W306": Code(
        "a dense layer on an image",
        """
        dense acts on the last axis, here the rows of an image: every row of every channel gets the same weights, and
        nothing mixes rows. That is rarely meant. `image -> flatten -> dense(64)` sees the whole image, conv2d its
        neighbourhoods.
        """,
    ),
    "W307": Code(
        "sigmoids in deep hidden layers",
        """
        The slope of the sigmoid is s (1 - s) <= 1/4, so behind n of them a gradient is at most 4^-n of what it was:
        the first layers hardly learn. Rectifiers have slope 1 where they are active.

            h = x -> dense(64) -> relu -> dense(64) -> relu          return y = h -> dense(1) -> sigmoid
        """,
    ),
    "W501": Code(
        "a squared loss after softmax",
        """
        The gradient of (a - y)^2 behind softmax holds the factor a_i (1 - a_i), which is almost 0 where the
        prediction is sure and wrong. With cross-entropy the factor cancels, and the gradient by the logits is a - y.
        """,
    ),
    "W502": Code(
        "a regression that ends with {activation}",
        """
        The activation limits what can be predicted: relu gives nothing below 0, sigmoid lies in (0, 1), tanh in (-1,
        1). A target outside can never be reached, and at the limits the gradient is 0. End a regression with the
        linear layer:

            return price = h -> dense(1)
        """,
    ),
    "W503": Code(
        "l2 under {optimizer}",
        """
        The gradient of l2 is lambda w. An adaptive optimizer divides it by the running size of the whole gradient, so
        weights with large gradients are hardly decayed, which is not what the penalty says. Decoupled decay, w <- (1
        - eta lambda) w, treats all alike: adamw(weight_decay=0.01).
        """,
    ),
    "W504": Code(
        "batch_norm with batch 1",
        """
        With one sample a batch the mean is the sample itself and the variance 0, so batch_norm gives its bias
        whatever comes in (unless other axes, such as height and width, add elements). Use larger batches.
        """,
    ),
    "W505": Code(
        "{loss} of an output layer without {wanted}",
        """
        cross_entropy is -sum y ln a and wants probabilities that sum to 1; binary_cross_entropy wants each between 0
        and 1. Of other outputs the logarithm may not exist, and training ends in NaN. With its own output layer the
        pair is computed in a form that cannot overflow.

            dense(10) -> softmax   cross_entropy          dense(1) -> sigmoid   binary_cross_entropy
        """,
    ),
    "W506": Code(
        "{loss} of classes",
        """
        Classes have names, not distances: a squared loss treats class 2 as twice class 1, or, on one-hot targets, has
        the factor a (1 - a) in its gradient and learns slowly where it is most wrong. Cross-entropy measures
        probabilities.
        """,
    ),
    "W507": Code(
        "sigmoids for classes that exclude each other",
        """
        Sigmoids judge every output by itself, which is right for several labels at once. Classes of which exactly one
        holds are better served by softmax: its probabilities sum to 1, and raising one lowers the others.
        """,
    ),
    "W508": Code(
        "softmax over one output is always 1",
        """
        softmax divides e^z by the sum over all outputs. With one output that is e^z / e^z = 1, whatever the network
        computes, and its gradient is 0. For two classes write dense(1) -> sigmoid with binary_cross_entropy.
        """,
    ),
    "W509": Code(
        "training ends before `{name}` begins",
        """
        The stages of a schedule follow one another, and training is over before this one begins, so it changes
        nothing. Harmless in a short trial; otherwise shorten the stages before it or train longer.
        """,
    ),
}
