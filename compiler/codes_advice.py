"""Titles and explanations of advice: the reason, and the formula behind it."""

from __future__ import annotations

from .code import Code

CODES: dict[str, Code] = {
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
        Dropout behind the last layer with weights sets outputs, or the numbers that softmax turns into them, to 0 at
        random in training, and the loss takes them for mistakes. Its place is before the last layer with weights.
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
        "{activation} in deep hidden layers",
        """
        The slope of the sigmoid is s (1 - s) <= 1/4, that of hard_sigmoid at most 1/6, so behind n sigmoids a gradient
        is at most 4^-n of what it was: the first layers hardly learn. Rectifiers have slope 1 where they are active,
        and a skip connection x + r lets the gradient pass beside them.

            h = x -> dense(64) -> relu -> dense(64) -> relu          return y = h -> dense(1) -> sigmoid
        """,
    ),
    "W308": Code(
        "{init} before {activation}",
        """
        He's variance 2 / in makes up for the half that a rectifier sets to 0. An activation that is nearly linear around
        0 and flat at its ends, such as tanh, loses nothing to make up for: pre-activations get sqrt(2) times too large
        with every layer and run into the flat ends, where the slope is 0. Xavier's 2 / (in + out) keeps their size.
        """,
    ),
    "W309": Code(
        "{problem} {activation}",
        """
        selu keeps activations at mean 0 and variance 1 by itself, as long as weights start with variance 1 / in
        (lecun_normal) and nothing between the layers moves the two. He's start doubles the variance, Xavier's misses it
        unless in = out, and the zeros of dropout shift the mean.
        """,
    ),
    "W310": Code(
        "dropout right before batch_norm",
        """
        In training, dropout with keep p raises the variance of what it lets through: var / p + mean^2 (1 - p) / p. The
        norm learns that variance, and divides by it in inference, where dropout is off and the variance is smaller.
        Every later layer then sees other numbers than in training. Put dropout behind the norms, near the output.

            dense(64, bias=false) -> batch_norm -> relu -> dropout(0.2)
        """,
    ),
    "W311": Code(
        "{argument} on weights before batch_norm",
        """
        batch_norm(c z) = batch_norm(z) for every c > 0: behind it the size of the weights does not matter, only their
        direction. A penalty or a limit on that size cannot make the function simpler; it changes the effective learning
        rate, eta / |w|^2, and nothing else.
        """,
    ),
    "W312": Code(
        "{layer} over a long sequence",
        """
        h_t = tanh(W x_t + R h_(t-1)): the gradient of the last state by an early one is a product of as many factors
        R^T diag(1 - h^2) as there are steps between them, and goes to 0, or to infinity, with their number. lstm and gru
        carry their state on by a sum, f c + i g, through which gradients pass.
        """,
    ),
    "W313": Code(
        "{activation} in a hidden layer",
        """
        The step function has slope 0 everywhere; a surrogate puts another slope in its place. At the output that is the
        perceptron rule. In hidden layers every layer adds an error of its own to the gradient, so it need not point
        downhill at all. sigmoid is the smooth step, relu the usual choice.
        """,
    ),
    "W314": Code(
        "{second} of {first}",
        """
        An activation is for what a layer with weights computes. A second one right behind the first gets only the part
        of the numbers that the first lets through: sigmoid(relu(z)) is never below 1/2, so class 0 is never predicted;
        softmax(relu(z)) cannot give two classes with negative z different probabilities, and has no gradient there.
        """,
    ),
    "W315": Code(
        "two linear layers, one behind the other",
        """
        (x W1 + b1) W2 + b2 = x (W1 W2) + (b1 W2 + b2): without an activation between them two layers compute what one
        does, with more parameters. It pays only as a bottleneck, where the middle is narrower than both ends.

            x -> dense(64) -> relu -> dense(10)
        """,
    ),
    "W316": Code(
        "an embedding wider than its vocabulary",
        """
        With k rows, k numbers a row already give every symbol a direction of its own, as one_hot does. More only add
        parameters for each symbol, which rare ones cannot learn. Usual sizes lie between the fourth root of k and k / 2.
        """,
    ),
    "W317": Code(
        "relu in `{layer}`",
        """
        tanh keeps a state in (-1, 1). relu does not, and the same matrix R is applied at every step: where its largest
        eigenvalue is above 1, states and gradients grow exponentially with the steps. Clip the gradients, and start R
        near the identity or orthogonal; or stay with tanh.
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
        1). A target outside can never be reached, and near the limits the gradient is 0. End a regression with the
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
        batch_norm takes mean and variance from the batch: (x - mean) / sqrt(var + eps). Of one sample the mean is the
        sample itself and the variance 0, so it gives its bias whatever comes in; on images height and width add
        elements, and the figures still jump from sample to sample. Use larger batches, or layer_norm, which takes
        them from the sample alone.
        """,
    ),
    "W505": Code(
        "{loss} of an output layer without {wanted}",
        """
        cross_entropy is -sum y ln a and wants probabilities that sum to 1: behind sigmoids all outputs at 1 would
        have no loss. binary_cross_entropy wants each between 0 and 1, poisson a rate above 0. Of other outputs the
        logarithm may not exist, and training ends in NaN. With its own output layer the pair is computed in a form
        that cannot overflow.

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
    "W510": Code(
        "a learning rate of {lr} for {optimizer}",
        """
        Optimizers mean different things by their rate. sgd multiplies the gradient by it; momentum in the form heavy_ball
        moves 1 / (1 - beta) times as far, so it wants less; adam and its kin divide by the size of the gradient, so the
        rate is about the distance that every parameter moves in a step; lion moves exactly that far; adadelta finds its
        scale itself and wants about 1. A rate of one in the other's place diverges, or never arrives.
        """,
    ),
    "W511": Code(
        "the numbers of `{name}` come in as they are",
        """
        The gradient by a weight is the product of the error and its input, so inputs of size 1000 make steps a million
        times as large as inputs of size 1, for the same rate; of several columns the largest drowns the others.
        Initial weights count on inputs with variance 1. standardize gives (x - mean) / std, learned from training rows
        and exported with the model.

            x = columns(age, income) -> standardize
        """,
    ),
    "W512": Code(
        "far more parameters than samples",
        """
        A network can store its training rows instead of what they have in common when it has room for them, and here
        nothing stops it: no dropout, penalty, norm, augmentation or early stopping. Large networks do generalise with
        those; without them, training and validation loss soon part.
        """,
    ),
    "W513": Code(
        "early stopping watches the training rows",
        """
        The training loss falls as long as training goes on, also when the network only learns its rows by heart. What
        tells when to stop is a split that it does not learn from.

            split = random(train=80%, validation=10%, test=10%)
            stop  = early_stopping(monitor=val.loss, patience=5)
        """,
    ),
    "W514": Code(
        "the test split decides about training",
        """
        The test figure says how the model does on rows that nobody looked at. Once it chooses the epoch or the rate, the
        best of many figures is reported, which is better than what new rows will show. Choose by a validation split, and
        look at the test split once.
        """,
    ),
    "W516": Code(
        "`{name}` changes nothing",
        """
        The schedule keeps one rate for the whole training: its first change would come after the last epoch. Make it
        change sooner, train longer, or leave it out.
        """,
    ),
    "W517": Code(
        "`{name}` lasts until the end",
        """
        A warm-up raises the rate from near 0 so that the first steps, when adaptive optimizers know little yet, stay
        small. Here the rate is still rising when training ends, so most of it runs at a rate that is too low. A twentieth
        to a tenth of the epochs is enough.
        """,
    ),
    "W518": Code(
        "`{name}` ignores the optimizer's learning rate",
        """
        The schedule names its own rates, so the optimizer's lr is never used, and a reader is misled. Give it the
        rate that the schedule reaches.
        """,
    ),
    "W519": Code(
        "a batch larger than the training split",
        """
        Every step takes all training rows, and an epoch is one step: gradient descent without noise, which wants many
        more epochs. `batch = full` says so.
        """,
    ),
    "W520": Code(
        "classes without shuffling",
        """
        With shuffle = false every epoch cuts the same batches in the same order. Where neighbouring rows are of one
        class, each batch pulls the network towards that class alone, and the last ones win. Shuffling makes each batch
        a sample of all rows; its order is fixed by the seed, so a run still repeats.
        """,
    ),
    "W521": Code(
        "{loss} of a bounded output",
        """
        hinge is max(0, 1 - s a), s = 1 or -1, and wants a score a beyond 1 on the right side. sigmoid lies in (0, 1): for
        s = -1 the loss never falls below 1, and the decision at 0 is always the same class. The score is the linear
        layer itself, without an activation.
        """,
    ),
    "W522": Code(
        "{loss} wants the targets 0 and 1",
        """
        Losses of two classes take the target y as 0 or 1: binary_cross_entropy is -y ln a - (1 - y) ln(1 - a), and hinge
        turns y into 2 y - 1 itself. With targets such as -1 and 1 they have no minimum, or a wrong one. `-> category`
        makes 0 and 1 of two values, whatever they are.
        """,
    ),
    "W523": Code(
        "{loss} of small batches",
        """
        rmse is the root of the mean over the batch. The mean of such roots over batches is not the root of the mean over
        all rows: sqrt is concave, so it is smaller, the more so the fewer samples a batch has; of a single sample it is
        |a - y|. mse has the same minimum and no such bias.
        """,
    ),
    "W524": Code(
        "`{goal}` looks the wrong way",
        """
        A goal says from which value on a figure is good enough: at_least where higher is better, as for accuracy and r2,
        at_most where lower is, as for losses and errors.
        """,
    ),
    "W525": Code(
        "a goal that cannot be reached",
        """
        The figure has a largest value, which lies below the goal. Shares are written as 0.95 or as 95%; 95 is ninety-five
        times all.
        """,
    ),
    "W526": Code(
        "decay that leaves little",
        """
        Every step multiplies the weights by 1 - eta lambda (decay=absolute: 1 - lambda). Where a step takes a tenth, ten
        steps leave a third, and what the loss teaches cannot hold against it; beyond eta lambda = 2 the weights grow
        without bound.
        """,
    ),
    "W527": Code(
        "`precision = fast` changes nothing",
        """
        It lets the rounding error of a convolution grow from 1e-6 to 3e-5 of its largest value, for Winograd's
        F(4x4, 3x3), which needs 36 products where F(2x2, 3x3) needs 64. That form is for windows of 3x3 at stride 1 with at
        least 8 channels on either side, without groups, and pays where a batch has many pieces of 4x4: 7x7 places or more,
        or so many images that transforming the windows is little beside the rest. Everything else is computed as with
        float32.
        """,
    ),
}
