"""Titles and explanations of diagnostics about export and this machine."""

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
    "E607": Code(
        "opset {opset} has no operator {operator}",
        """
        The version of ONNX's operators that was asked for, with `opset` in the export section or --opset, is older than
        an operator that the network needs.
        """,
    ),
    "E611": Code(
        "`{path}` is no ONNX model that can be read",
        """
        An ONNX file is one protobuf message of less than 2 GiB: a graph, and the versions of its operators. This file
        is something else, or a part of one, as an interrupted download leaves it. Nothing of it was run.
        """,
    ),
    "E612": Code(
        "the model of `{path}` cannot be run",
        """
        onnxruntime did not load the exported file, or did not run it on the rows that it was given: it is older than
        the operators of the file, or a row holds a value that the network has no place for.
        """,
    ),
    "E613": Code(
        "the training of `{path}` cannot be repeated",
        """
        `nnc reproduce` trains again from the manifest that nnc wrote into a run or a bundle, and compares what comes out
        with what lies beside it. The manifest has to be that of a training that has ended, and to name the spec, its
        constants and the SHA-256 of its data.
        """,
    ),
    "E620": Code(
        "the model loses too much in {what}",
        """
        `quantize` asks for a file in fewer bits. onnxruntime has run it on rows that were kept out of the training, and
        the figure that counts - the goal's, else the first of the metrics, else the loss - got worse by more than `most`
        allows, as a share of itself. A file that is small and wrong is worse than none, so nothing was written. More
        calibration rows may help int8; float16 loses far less.
        """,
    ),
    "E621": Code(
        "nothing of the network is there in {what}",
        """
        `quantize` asks for a file in fewer bits, and no layer of this network has a form in them. int8 is for dense
        layers, convolutions and embeddings, float16 for everything with weights.
        """,
    ),
    "E622": Code(
        "`quantize` needs rows to judge by",
        """
        A file in fewer bits is judged by the figures of the train section on rows of the data section, and int8 finds
        the ranges of its numbers on training rows. So the spec needs both sections, and the data must be there when the
        file is written: `nnc export` and `nnc run` open it.
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
    "E703": Code(
        "the bundle `{path}` is not as it was exported",
        """
        manifest.json of a bundle that `nnc export` wrote holds the SHA-256 of every file, and one of itself. They are
        checked before anything of a bundle is used. A file was changed, cut short, exchanged or lost since, so nothing
        of the bundle can be relied on.
        """,
    ),
    "E704": Code(
        "`{path}` is in use",
        """
        The place is taken: by another training that is running, by a file, by files that nnc did not write and will
        not overwrite, or by the input of the command itself. Choose another place. `nnc export` replaces a bundle that
        is as it was written, and no other directory; neither does it replace one in which you have changed or added a
        file.
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
    "E708": Code(
        "the engine `{engine}` is not there",
        """
        --engine, or the variable NNC_ENGINE, chooses what runs the steps of a training: `numpy`, which is always there;
        `fast`, which compiles loops with numba and comes with `pip install 'nnc-lang[fast]'`; `onnxruntime`, on the CPU or
        with --device cuda on a GPU. Without a choice it is the fast one where numba is installed and can be used; where it
        cannot, training says why and NumPy runs the steps. All compute the same to rounding.
        """,
    ),
    "E709": Code(
        "the device `{device}` cannot be used",
        """
        A GPU that was asked for and is not used is an error, so nothing ran. onnxruntime runs on a GPU where all of this
        is there: its package for GPUs alone, NVIDIA's driver, the libraries of CUDA and cuDNN in the versions that it was
        built with, and a kernel for every node of the graph. `nnc doctor` says what is missing on this machine.

            pip install 'onnxruntime-gpu[cuda,cudnn]'     the libraries, where the system has none
        """,
    ),
    "E710": Code(
        "onnxruntime cannot run the training steps",
        """
        With --engine onnxruntime a whole step, forward, backward and update, is one ONNX graph. newton, hessian_free,
        conjugate_gradient and lbfgs evaluate the objective as often as each step needs, so theirs is none. Others are
        refused where onnxruntime has no kernel, as for some operators in float64.
        """,
    ),
}
