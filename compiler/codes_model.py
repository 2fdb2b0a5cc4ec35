"""Titles and explanations of diagnostics about shapes and types, data, and training."""

from __future__ import annotations

from .code import Code

CODES: dict[str, Code] = {
    "E301": Code(
        "{argument} is larger than its input",
        """
        A window of size F with dilation D over an input of size n with padding P needs D (F - 1) + 1 <= n + 2P;
        otherwise there is no place to put it. Use a smaller kernel, more padding, or `padding=same`. In deep networks
        the input shrinks with each pooling layer: `nnc summary` shows the shapes.
        """,
    ),
    "E302": Code(
        "`{operation}` of tensors whose shapes differ",
        """
        Elementwise operations take tensors of equal shape; nothing broadcasts, because a silent repetition along an
        axis is rarely meant. `concat` wants equal shapes but for one axis. Bring both to one shape with dense,
        reshape or flatten.
        """,
    ),
    "E303": Code(
        "`{operation}` does not take a sample of this rank",
        """
        The operation works on samples with another number of axes: conv2d and pooling on images [channels, height,
        width], dense and batch_norm on at least one axis. The batch axis is implicit and is not written.

            wrong:  x: float32[784]  x -> conv2d(8, kernel=3)
            right:  x: float32[784]  x -> reshape([1, 28, 28]) -> conv2d(8, kernel=3)
        """,
    ),
    "E304": Code(
        "{size} elements do not fit into {shape}",
        """
        reshape keeps the elements and their order, so the product of the new axes must equal the number of elements
        of a sample. One axis may be -1: it takes what remains.
        """,
    ),
    "E305": Code(
        "`{operation}` does not take {dtype}",
        """
        Weights and arithmetic work on floats; integers are indices of classes or symbols. Turn them into floats
        first: an embedding, `one_hot` or `scale` in the data section, or declare the input as float32.
        """,
    ),
    "E306": Code(
        "{groups} groups do not divide the channels",
        """
        A grouped convolution cuts input and output channels into groups that do not mix, so the number of groups must
        divide both.
        """,
    ),
    "E307": Code(
        "{what} is too large",
        """
        What the spec plans (parameters, state and the arrays of the largest step) does not fit into the limit, 16 GiB
        unless --max-bytes says otherwise, or there are more layers than any network has. A dense layer from n to m
        units has n m weights: a pooling layer before it, or a smaller batch, often is the remedy. Not counted are
        Python and its libraries, the data, and the copies of parameters and state that are kept or written between
        epochs: the best weights and the checkpoint.
        """,
    ),
    "E308": Code(
        "the windows do not divide the input exactly",
        """
        (n + 2P - F) / S + 1 is no whole number, so the last elements would be left out. That is the default, rounded
        down; `exact=true` asked to refuse it.
        """,
    ),
    "E309": Code(
        "there is no axis {axis}",
        """
        Axes count the dimensions of a sample from 0, or from the end as -1; the batch is not counted. This axis does
        not exist.
        """,
    ),
    "E310": Code(
        "the shared parameter `{name}` would have two shapes",
        """
        A shared block has one set of weights wherever it is used, so its inputs must have equal shapes. Make the
        shapes equal first, or leave out `shared` to give every use weights of its own.
        """,
    ),
    "E311": Code(
        "the table of `{name}` has too few rows",
        """
        A category of k classes gives the indices 0..k-1, and k for values that training has not seen. An embedding wants
        at least k rows; with exactly k, unseen values are refused when they come; with k + 1 there is a row for them.
        """,
    ),
    "E401": Code(
        "`{path}` cannot be opened",
        """
        There is nothing at this path, or something else than what is wanted: a directory in place of a file, a directory
        that is no run, a file that you may not read. Paths in a spec are relative to the spec file, or to the directory that
        --data-root names; those given to a command are relative to where it is called.
        """,
    ),
    "E402": Code(
        "the source has no column `{column}`",
        """
        The source has no such column. A csv file takes its names from the first line, or calls them c1, c2, ... with
        header=false; array files use the names of their arrays. Quote names that are no identifiers: column("fixed
        acidity").
        """,
    ),
    "E403": Code(
        "`{path}` is ragged at line {line}",
        """
        A row has another number of cells than the first line. Often a separator stands inside a cell, which then
        needs quotes ("Rome, Italy"), or the separator is not a comma: csv("file.csv", separator=";").
        """,
    ),
    "E404": Code(
        "`{step}` does not fit the column",
        """
        The data step does not work on this kind of column: text has no mean, and class names must be of the type that
        the column holds. Turn text into indices with `category`, or into 0 and 1 with `one_hot`.
        """,
    ),
    "E405": Code(
        "`{name}` holds {what}",
        """
        A value is missing or not finite after the data steps. One NaN makes every weight NaN, so training does not
        begin. Fill it (`-> impute(median)`), name the cells that mean a missing value (csv(..., missing="?")), or
        remove the row.
        """,
    ),
    "E406": Code(
        "`{name}` holds a class that training has not seen",
        """
        Classes are learned from the training rows, or given as a list. A target with a class outside them has no
        output that could predict it. Name all classes, `category(["a", "b", "c"])`, or split with stratify so that
        each part has all.
        """,
    ),
    "E407": Code(
        "the data of {name} has another shape or type",
        """
        A data name feeds the network input of the same name, and its type after the steps must be the input's: dtype
        and shape of a sample. Change the steps (scale, flatten, reshape, one_hot) or the declaration of the input.
        """,
    ),
    "E408": Code(
        "the shares of the split do not sum to 1",
        """
        train, validation and test are shares of the rows, between 0 and 1, and together they are all rows. Write
        percent:

            split = random(train=80%, validation=10%, test=10%)
        """,
    ),
    "E409": Code(
        "`{path}` lies outside the data root",
        """
        A spec may come from anywhere, so it reads only below its data root: the directory of the spec, or the one
        given with --data-root. Absolute paths, `..` and links that lead out of it are refused.
        """,
    ),
    "E410": Code(
        "`{path}` cannot be read",
        """
        The file is there and does not hold what its kind promises: a broken header, rows of different numbers, bytes
        that are no UTF-8, fewer bytes than declared. Nothing is guessed; fetch or write the file again.
        """,
    ),
    "E411": Code(
        "the {split} split would be empty",
        """
        The share of this split is so small that it gets no row, no group, or no whole window. Give it a larger share, leave it
        out, or use more data. Windows stay inside a file of a `files` split and inside consecutive rows of one group of a
        `grouped` one, so rows of a group stand together.
        """,
    ),
    "E412": Code(
        "{name} has no classes",
        """
        stratify keeps the share of every class in each split, and class_balance makes classes equally frequent, so the
        data name must have classes: one that went through `category`, or an array of labels.
        """,
    ),
    "E413": Code(
        "`{step}` does not fit where it stands",
        """
        A window makes samples of several rows. Steps that learn (standardize, category, ...) learn from rows, so they
        stand before it; there is one window at most; and where one data name is made of windows, all that feed the
        network or the loss are, with the same stride.

            series  = column(value) -> min_max
            history = series -> window(length=12)
            next    = series -> window(length=1, offset=12)
        """,
    ),
    "E414": Code(
        "a random split of overlapping windows",
        """
        Windows that overlap share rows. Split at random, rows of the validation part would stand in training windows as
        well, and its figures would say nothing. `ordered` cuts the rows in time: a window belongs to the part that holds
        all its target rows.
        """,
    ),
    "E415": Code(
        "the weights `{name}` are {what}",
        """
        A sample's weight says how often it counts: 2 is as if the row stood there twice, 0 as if it were not there. A
        negative weight would push the prediction away from the target without end, and where no training row has a
        weight above 0 there is nothing to learn from.
        """,
    ),
    "E416": Code(
        "the split does not fit the column `{column}`",
        """
        `by` sends a row where the value of a column says, so every value that occurs stands in one list, and every value of
        a list occurs; `grouped` keeps the rows of one value together. Both need a value in every row.

            split = by(year, train=[2019, 2020], validation=[2021], test=[2022])
            split = grouped(by=patient, train=80%, test=20%)
        """,
    ),
    "E417": Code(
        "the columns of `{path}` differ from those of the source",
        """
        Rows of all parts go through the same steps into the same network, so a file that a split names has the columns that
        the data names use, of the same type and shape. It may have others as well.
        """,
    ),
    "E501": Code(
        "there is no {what} `{name}`",
        """
        The loss is written (prediction, target): an output of the network, then a data name. Metrics take the same
        pairs; early_stopping and goals watch train., val. or test. before `loss` or a metric of the list.
        """,
    ),
    "E502": Code(
        "prediction and target of {loss} do not fit",
        """
        Prediction and target must have equal shapes after axes of length 1 are dropped; nothing broadcasts.
        Cross-entropy takes one output per class and the index of the class, or equal shapes. The last layer's units
        give the shape of the prediction.
        """,
    ),
    "E503": Code(
        "{classes} classes for {outputs} outputs",
        """
        A class index selects one of the outputs, so there must be at least as many outputs as classes. For k classes:

            return p = h -> dense(k) -> softmax          loss = cross_entropy(p, label)

        With two classes one output is enough: dense(1) -> sigmoid and binary_cross_entropy.
        """,
    ),
    "E504": Code(
        "`{metric}` {problem}",
        """
        A metric is computed on a pair of the loss. Where several pairs fit it must name one, accuracy(digit, label);
        where none fits it says nothing: classes want accuracy or top_k, numbers want mae, rmse or r2.
        """,
    ),
    "E505": Code(
        "training through `step` has no gradient",
        """
        The derivative of the step function is 0 everywhere, so no gradient passes it and nothing before it learns.
        The perceptron rule uses a surrogate in its place: step(surrogate=identity) takes 1, step(surrogate=sigmoid)
        the sigmoid's slope.
        """,
    ),
    "E506": Code(
        "the penalty wants the number of samples, and there is no data section",
        """
        scale=1/samples divides the penalty by the number of training samples, which is known only where a data
        section says which rows train. Write the divided number: l2(5.0, scale=1/samples) with 1000 samples is
        l2(0.005).
        """,
    ),
    "E507": Code(
        "`{name}` needs a {split} split",
        """
        A figure of a split is watched, and the data section gives that split no rows. Stopping or comparing by it
        needs:

            split = random(train=80%, validation=10%, test=10%)
        """,
    ),
    "E508": Code(
        "no parameter is called `{name}`",
        """
        Parameters are called by where they stand: statement/operation/role, such as hidden/dense/weight. A part is a
        whole name or the beginning of one up to a `/`. `nnc summary` lists them.
        """,
    ),
    "E509": Code(
        "there is nothing to train: {problem}",
        """
        Every parameter is frozen, or the network has none, so an optimizer would change nothing.
        """,
    ),
    "E510": Code(
        "{what} became NaN or infinite at step {step}",
        """
        A value became NaN or infinite; the message names the layer where it appeared first. Usual reasons: a learning
        rate that is too large, inputs that are not scaled, a logarithm of 0. Lower the rate, add `clip =
        global_norm(1.0)`, standardize the inputs, and use a loss with its own output layer (softmax with
        cross_entropy, sigmoid with binary_cross_entropy). The weights before that step are kept.
        """,
    ),
    "E511": Code(
        "the run cannot be resumed: {problem}",
        """
        --resume continues a run bit for bit, so everything that decides about the result must be what it was: the
        spec, its constants, the data. Undo the change, or begin a new run without --resume.
        """,
    ),
    "E512": Code(
        "`{file}` does not fit the network",
        """
        The file of weights does not hold what the network needs: names or shapes differ, or the numbers are not
        finite. Arrays are matched by the parameter names that `nnc summary` shows; `only=[part]` takes some of them.
        """,
    ),
    "E513": Code(
        "the batch does not fit the program",
        """
        A batch is a dict with an array for every network input and every target of the loss, the batch axis first,
        already preprocessed, all with the same number of samples.
        """,
    ),
    "E514": Code(
        "training needs a {missing} section",
        """
        Training needs a loss, an optimizer, a number of epochs and rows to learn from:

            data  { source = csv("file.csv")   x = column(a)   t = column(b) }
            train { loss = mse(y, t)   optimizer = adam(lr=0.001)   batch = 32   epochs = 10 }

        From Python a spec without data is trained with `model.step(batch)`.
        """,
    ),
    "E515": Code(
        "`{layer}` has no row for the index {index}",
        """
        An embedding takes the indices 0..rows-1. A category of k classes gives 0..k-1, and k for a value that training has
        not seen: a table of k + 1 rows has one for it, a table of k rows refuses it when it comes.
        """,
    ),
    "E516": Code(
        "`{optimizer}` {problem}",
        """
        newton, hessian_free, conjugate_gradient and lbfgs compare values of one objective along a line, so every step must
        see the same rows (batch = full) and treat all parameters alike. newton writes down the whole Hessian, n by n
        numbers for n parameters, and solves a system with it: n^3 operations.
        """,
    ),
    "E517": Code(
        "the weights `{name}` are {what} as well",
        """
        Sample weights belong to rows with a target: a row to predict has none, and augmentation must not change them. So they
        have a data name of their own, which may read the same column:

            exposure = column(exposure) -> standardize
            w        = column(exposure)
        """,
    ),
    "E518": Code(
        "the weights `{name}` are not one number a sample",
        """
        `weights` multiplies the loss of each sample by a number, so it is a column of numbers, one to a row. For weights that
        depend on the class alone, write class_weights=[...] or class_weights=balanced.
        """,
    ),
    "E519": Code(
        "balanced class weights count training rows, and there is no data section",
        """
        class_weights=balanced gives class c the weight rows / (classes * rows of c), counted over the training split, which
        only a data section has. Without one, count them where the batches come from and write a list.
        """,
    ),
    "E520": Code(
        "`{ensemble}` {problem}",
        """
        An ensemble is several networks whose outputs are averaged. bagging(n) trains each on a bootstrap sample of the
        training rows; k_fold(k) trains each on all folds but one and validates it on that one. Both need rows to draw
        from, and only one of them can say which rows a member gets. Averages are taken in the units of the target's
        column, so a step whose figures every fold learns anew must have a way back.

            data  { ...  split = k_fold(5, test=20%) }          train { ...  ensemble = bagging(5) }
        """,
    ),
    "E521": Code(
        "the ensemble in `{path}` is not finished",
        """
        Members are trained one after another, and the ensemble is written when the last has finished. An average of
        some of them would be another model. `nnc train FILE -o RUN --resume` goes on where it stopped.
        """,
    ),
    "E522": Code(
        "lazy=true of `{name}` {problem}",
        """
        A lazy embedding is updated in the rows that a batch names, and the others rest. A penalty on its weights gives every
        row a gradient in every step, and newton, conjugate_gradient and the like move all parameters along one line.
        Decoupled decay (weight_decay of the optimizer) goes with it: it acts on the rows that are updated.
        """,
    ),
    "E523": Code(
        "mixup {problem}",
        """
        mixup replaces each sample of a batch by s times itself and 1 - s times another sample, inputs and targets alike.
        So every input of the network is mixed, once and with one alpha; an input of int64 holds indices, between which
        there is nothing.

            augment = [image -> shift(2) -> mixup(0.2), measures -> mixup(0.2)]
        """,
    ),
}
