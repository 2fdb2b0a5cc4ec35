"""Words of the language that this version knows and does not compile yet: refused by name, never ignored."""

from __future__ import annotations

from ..operation import Kind

PLANNED: dict[Kind, frozenset[str]] = {
    Kind.LAYER: frozenset(
        "saturated_linear gaussian prelu relu6 selu celu softplus softsign mish gelu hard_sigmoid hard_swish maxout log_softmax "
        "conv1d conv2d_transpose depthwise_conv2d transpose split embedding rnn lstm gru radial sparse_dense layer_norm "
        "group_norm spatial_dropout gaussian_noise attention shared".split()
    ),
    Kind.INITIALISER: frozenset("truncated_normal lecun_normal lecun_uniform orthogonal scaled from".split()),
    Kind.PENALTY: frozenset(("lm",)),
    Kind.CONSTRAINT: frozenset(("max_norm",)),
    Kind.LOSS: frozenset("rmse absolute kl_divergence hellinger hinge focal log_cosh quantile poisson cosine".split()),
    Kind.METRIC: frozenset("precision recall f1 auc confusion_matrix perplexity log_loss".split()),
    Kind.OPTIMISER: frozenset(
        "adagrad adadelta nadam adamax amsgrad lion newton conjugate_gradient hessian_free lbfgs".split()
    ),
    Kind.SCHEDULE: frozenset("inverse_time polynomial triangular one_cycle reduce_on_plateau".split()),
    Kind.SOURCE: frozenset("iris wine text parquet image_folder tsv".split()),
    Kind.STEP: frozenset("clip log1p bits bucketize window characters class_balance".split()),
    Kind.SPLIT: frozenset("grouped by files k_fold".split()),
    Kind.ENSEMBLE: frozenset(("bagging",)),
    Kind.QUANTISATION: frozenset(("int8", "float16")),
    Kind.SEARCH: frozenset("grid random bayesian".split()),
}

PLANNED_ARGUMENTS: dict[tuple[Kind, str], frozenset[str]] = {
    (Kind.LOSS, "cross_entropy"): frozenset(("class_weights", "weights")),
    (Kind.LOSS, "binary_cross_entropy"): frozenset(("class_weights", "positive_weight", "weights")),
    (Kind.LAYER, "dense"): frozenset(("constraint",)),
    (Kind.LAYER, "conv2d"): frozenset(("constraint",)),
    (Kind.SCHEDULE, "cosine"): frozenset(("restarts",)),
}

PLANNED_KEYS: dict[str, frozenset[str]] = {
    "data": frozenset(("augment",)),
    "train": frozenset(("ensemble",)),
    "export": frozenset(("quantize",)),
}
