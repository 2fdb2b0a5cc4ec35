"""Known bugs, each one line, and the tests that must notice: `python tests/planted.py --all` runs the whole suite against each.

A bug is planted in a copy of the package, never in the working tree. test_planted.py holds the list against the suite: the tests named
here fail with the bug and pass without it. The text that a bug replaces stands exactly once in its file, or the entry says so and fails:
whoever changes the line changes the entry.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("compiler", "runtime", "grammar", "specs")


@dataclass(frozen=True)
class Bug:
    """`tests` is what pytest is given: files or tests, and for files with many tests an expression for -k."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    k: str = ""

    def selection(self) -> list[str]:
        return [*(f"tests/{test}" for test in self.tests.split()), *(["-k", self.k] if self.k else [])]


OPERATIONS, OPTIMISERS, LOSSES, DATA, EXPORT = (f"test_{name}.py" for name in ("operations", "optimisers", "losses_metrics", "data", "export"))
ONNX_STEP = "test_onnx_training.py"
TORCH = f"{OPERATIONS}::test_values_gradients_and_steps_are_torchs"
LEAVES = f"{EXPORT}::test_a_layer_leaves_as_it_predicts"
STEP = f"{OPTIMISERS}::test_a_step_is_the_catalogues"

BUGS = [
    # Layers
    Bug("the other constant of gelu", "compiler/ops/activations.py", "z * z * z * 0.044715", "z * z * z * 0.44715", TORCH, "gelu"),
    Bug("an inverted temperature", "compiler/ops/activations.py", "z * (1 / p.temperature)", "z * p.temperature", TORCH, "softmax"),
    Bug("a relu with a slope at 0", "compiler/primitives.py", 'apply("greater", a if constant_of(b)', 'apply("greater_equal", a if constant_of(b)',
        "test_primitives.py", "ties"),
    Bug("a rectifier's slope taken from what arrives, compiled", "runtime/compiled_recurrence.py", "f32(1) if h[k] > f32(0)", "f32(1) if dh[k] > f32(0)",
        "test_fast.py", "recurrences_are and relu"),
    Bug("the first tap of a phase forgotten where a cotangent begins", "runtime/native_depthwise.py", "(p + before - first * dilation) // stride",
        "(p + before) // stride", "test_fast.py", "depthwise_convolutions_are and stride"),
    Bug("a depthwise gradient without its last run of rows", "runtime/depthwise.py", " or number + 1 == last:", " or number == last:",
        "test_fast.py", "depthwise_convolutions_are and 16-16-3"),
    Bug("a sum of twins where their difference belongs", "runtime/transforms.py", "both[k][row % 2]", "both[k][0]",
        "test_fast.py", "winograds_convolution and size0"),
    Bug("a loop that forgets one of its sums", "runtime/loops.py", "(t{n}[2 * inner + j] + t{n}[3 * inner + j])", "t{n}[2 * inner + j]",
        "test_fast.py::test_sums_of_what_a_loop_computes_are_numpys"),
    Bug("points that square the errors", "runtime/interpolation.py", "Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)",
        "Fraction(5), Fraction(-5), Fraction(10), Fraction(-10)", "test_winograd.py", "within_the_forms_bound"),
    Bug("larger errors for whoever trains", "compiler/experiment.py", 'return 3e-5 if self.precision == "fast" else 0.0', "return 3e-5",
        "test_winograd.py", "larger_errors"),
    Bug("a sum of nothing whatever was subtracted", "compiler/passes/sums.py", " and _counts(count, y, axes)", "", "test_passes.py", "subtracted"),
    Bug("a mask without a gradient", "compiler/ops/layers.py", "masked = x * build.bernoulli(x, keep)",
        'masked = apply("surrogate", x * build.bernoulli(x, keep), x)',
        f"{OPERATIONS}::test_dropout_by_finite_differences"),
    Bug("attention scaled for one head", "compiler/ops/layers.py", 'headed("query") * sqrt(p.heads / size)', 'headed("query") * sqrt(1 / size)',
        TORCH, "attention"),
    Bug("lanes that go on over the memory of others", "runtime/lanes.py", "            return True", "            return False",
        "test_lanes.py", "any_order and groups"),
    Bug("lanes that add to one sum", "runtime/convolution.py", "*(each[lane] for each in (frame, columns, space, part, sums))",
        "*(each[0] for each in (frame, columns, space, part, sums))", "test_lanes.py", "any_order and normalised"),
    Bug("the odd element of padding before", "compiler/ops/convolution.py", "edges.append((needed // 2, needed - needed // 2))",
        "edges.append((needed - needed // 2, needed // 2))", TORCH, "conv2d and same"),
    Bug("fans of one element of the window", "compiler/ops/convolution.py", "fan = Fan(channels // p.groups * p.kernel, p.channels // p.groups * p.kernel)",
        "fan = Fan(channels // p.groups, p.channels // p.groups)", f"{LOSSES}::test_fans_count_the_connections_of_a_unit"),
    Bug("pooling that rounds up", "compiler/primitives.py", "out = [window_output(size[i], window[i], stride[i], padding[i]) for i in range(2)]  # type",
        "out = [-(-(size[i] + sum(padding[i]) - window[i]) // stride[i]) + 1 for i in range(2)]  # type", TORCH, "pool"),
    Bug("the running variance with the other momentum", "compiler/ops/normalisation.py", "running_var * p.momentum + var * (1 - p.momentum)",
        "running_var * (1 - p.momentum) + var * p.momentum", f"{OPERATIONS}::test_running_statistics_follow_the_biased_variance"),
    Bug("gates of an lstm in torch's order", "runtime/recurrence.py", "i_o_f, o, g, s = now[:3], now[1],", "i_o_f, o, g, s = now[:3], now[2],", TORCH, "lstm"),
    Bug("a shared block that shares nothing", "compiler/network.py", "Place(name if block.shared else path,", "Place(path,",
        f"{OPERATIONS}::test_a_shared_block_sums_the_gradients_of_its_uses"),
    # Losses and metrics
    Bug("smoothing over the other classes", "compiler/ops/losses.py", "total(log_a, -1) * (p.smoothing / outputs)",
        "total(log_a, -1) * (p.smoothing / (outputs - 1))",
        f"{LOSSES}::test_a_loss_and_its_gradient_are_torchs", "cross_entropy and smoothing"),
    Bug("the line of huber beside the square", "compiler/ops/losses.py", "(size - p.delta / 2) * p.delta", "(size - p.delta) * p.delta",
        f"{LOSSES}::test_a_loss_and_its_gradient_are_torchs", "huber"),
    Bug("the last of equal outputs decides", "runtime/kernels.py", "np.argmax(x, axis, out)",
        "np.copyto(out, x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis))",
        f"{LOSSES}::test_ties_count_as_found_in_top_k_and_go_to_the_first_in_accuracy"),
    Bug("ties of an auc that count nothing", "compiler/ops/metrics.py", "area = above[0] * below[0] / 2 +", "area =", LOSSES, "auc"),
    # Training
    Bug("a bias correction by the first decay", "compiler/ops/optimisers.py", "sqrt((1 - p.beta2**t) /", "sqrt((1 - p.beta1**t) /", STEP, "adam"),
    Bug("epsilon on the other side of the root", "compiler/ops/optimisers.py", 'if eps_in == "inside" else', 'if eps_in == "outside" else', STEP, "rmsprop"),
    Bug("the velocity of the step before", "compiler/ops/optimisers.py", "return down - new * p.beta", "return down - v * p.beta", STEP, "nesterov"),
    Bug("decay of biases", "compiler/lower.py", 'role in ("W", "R") or role.endswith("weight")', 'role in ("W", "R") or role.endswith(("weight", "bias"))',
        f"{OPTIMISERS}::test_decay_is_decoupled_and_spares_biases_and_norms", "sgd or adamw"),
    Bug("a norm that is a sum", "compiler/ops/training.py", 'length = apply("sqrt", whole)', "length = whole",
        f"{OPTIMISERS}::test_gradients_are_clipped_before_the_optimiser"),
    Bug("a warm-up from 0", "compiler/ops/schedules.py", "lr * min(1.0, (i + 1) / length)", "lr * min(1.0, i / length)",
        f"{OPTIMISERS}::test_a_schedule_gives_its_rates", "warmup"),
    Bug("a penalty without its half", "compiler/ops/penalties.py", "dot(w, w) * (strength(p, samples) / 2)", "dot(w, w) * strength(p, samples)",
        f"{OPERATIONS}::test_a_penalty_is_added_to_the_objective_and_to_weights_alone", "l2"),
    Bug("a last batch that counts as a whole one", "runtime/train.py", 'place.loss_sum += float(program.outputs["loss"]) * n',
        'place.loss_sum += float(program.outputs["loss"]) * self.batch', "test_run.py::test_the_training_loss_of_an_epoch_counts_samples"),
    Bug("the same order in every epoch", "runtime/train.py", 'generator(self.model.seed, "order", epoch)', 'generator(self.model.seed, "order", 0)',
        "test_run.py::test_each_epoch_sees_every_row_once"),
    Bug("one epoch more of patience", "runtime/train.py", "place.waited >= stop.params.patience", "place.waited > stop.params.patience",
        "test_run.py::test_early_stopping_keeps_the_best_weights"),
    Bug("a resumed run that counts from 0", "runtime/model.py", "self.step_count = step_count", "self.step_count = 0",
        f"{OPTIMISERS}::test_training_goes_on_where_a_file_left_it"),
    Bug("masks that repeat in every step", "runtime/kernels.py", "np.array([0, 0, self.step, 0], np.uint64)", "np.array([0, 0, 0, 0], np.uint64)",
        f"{OPERATIONS}::test_a_mask_repeats_for_the_same_seed_layer_and_step_and_else_differs"),
    Bug("figures of the last batch", "runtime/metrics.py", "known + value", "value",
        "test_run.py::test_figures_do_not_depend_on_how_many_rows_are_evaluated_at_a_time"),
    Bug("a plateau measured absolutely", "runtime/train.py", "abs(place.plateau_best) * self.plateau.min_delta", "self.plateau.min_delta",
        "test_augment.py::test_a_plateau_counts_relative_improvements"),
    # The graph
    Bug("a pool before a step that others read too", "compiler/passes/pools.py", "while users[x] == 1 and ", "while ", "test_pools_first.py"),
    Bug("a pool before what differs within a channel", "compiler/passes/pools.py", " or other.shape[-2:] == (1, 1)", " or True", "test_pools_first.py"),
    Bug("equal operators that differ in attributes", "compiler/passes/common.py",
        "return known.setdefault((value.op, value.operands, attributes, value.type), value)",
        "return known.setdefault((value.op, value.operands, value.type), value)", "test_passes.py", "equal_terms"),
    Bug("a - (-b) is a - b", "compiler/passes/simplify.py", 'return apply("add", a, b.operands[0])', 'return apply("subtract", a, b.operands[0])',
        "test_passes.py", "identity"),
    Bug("ln sigmoid with the wrong sign", "compiler/passes/stable.py", 'return -apply("softplus", -a.operands[0])', 'return -apply("softplus", a.operands[0])',
        f"test_passes.py {LOSSES}::test_a_loss_and_its_gradient_are_torchs", "exact or binary_cross_entropy"),
    Bug("memory written over while it is read", "compiler/plan.py", "self.last_use.get(source) == at and source in held",
        "self.last_use.get(source, at) >= at and source in held",
        "test_plan.py::test_no_value_is_lost_before_its_last_reader"),
    Bug("a pool's gradient over an image that windows leave in part", "compiler/plan.py", ' and divides(value, *operands[:2]):', ":",
        "test_fast.py::test_the_gradient_of_a_pool_of_pairs_is_numpys_bit_for_bit"),
    # Data
    Bug("quotes without their rules", "runtime/data/delimited.py", "csv.reader(lines(), delimiter=self.separator, strict=True)",
        "csv.reader(lines(), delimiter=self.separator, doublequote=False, strict=True)", f"{DATA}::test_csv_quotes"),
    Bug("a missing number that is there", "runtime/data/delimited.py", "            sure &= values != value", "            sure &= values == values",
        "test_delimited.py::test_the_same_as_the_csv_module", "numpy"),
    Bug("halfway to the odd float", "runtime/compiled_csv.py", "significand & u64(3) == u64(1) and", "significand & u64(3) == u64(4) and",
        "test_delimited.py::test_numbers_have_the_bits_of_float", "compiled and between"),
    Bug("stratified in name alone", "runtime/data/splits.py", "        groups = [order] if classes is None else _by_class(order, classes)",
        "        groups = [order]",
        f"{DATA}::test_stratified_shares"),
    Bug("steps that learn from all rows", "runtime/data/dataset.py", "_taken(raw, train)",
        "raw", f"{DATA}::test_test_rows_teach_nothing"),
    Bug("classes in no order", "runtime/data/fit.py", "return {}, tuple(sorted(found))", "return {}, tuple(sorted(found, reverse=True))",
        f"{DATA}::test_categories_come_from_training_rows"),
    Bug("a deviation of samples", "runtime/data/fit.py", "squares / np.maximum(count, 1)",
        "squares / np.maximum(count - 1, 1)",
        f"{DATA}::test_scalers_agree_with_scikit_learn"),
    Bug("one window too few", "runtime/data/splits.py", "np.arange(begin, end - longest + 1, stride)", "np.arange(begin, end - longest, stride)",
        "test_windows.py"),
    Bug("targets across the cut", "runtime/data/splits.py", "(low >= start) & (high <= stop)", "(low >= start) & (low < stop)", "test_windows.py"),
    # Export
    Bug("pads in the order of axes", "compiler/onnx_lowering.py", "return [top, left, bottom, right]", "return [top, bottom, left, right]",
        LEAVES, "conv2d and same"),
    Bug("a mean that counts padding", "compiler/onnx_lowering.py", "count_include_pad=0", "count_include_pad=1", LEAVES, "avg_pool"),
    Bug("the other form of gru", "compiler/onnx_lowering.py", 'attributes["linear_before_reset"] = 1', 'attributes["linear_before_reset"] = 0', LEAVES, "gru"),
    Bug("an attribute of a later opset", "compiler/onnx_lowering.py", "if emit.opset >= 18:", "if emit.opset >= 13:", LEAVES, "maxout"),
    # Training as one ONNX graph
    Bug("rows of one index that take each other's place", "compiler/onnx_training.py", 'cotangents, axis=0, reduction="add")', "cotangents, axis=0)",
        ONNX_STEP, "lost_by_threads"),
    Bug("the stride of the convolution for its weights", "compiler/onnx_training.py", 'strides=list(a["dilation"]), dilations=list(a["stride"])',
        'strides=list(a["stride"]), dilations=list(a["dilation"])', ONNX_STEP, "gradients_of_convolutions"),
    Bug("all of the equal elements of a window", "compiler/onnx_training.py", 'hit = emit.node("And", equal, free) if free else equal', "hit = equal",
        ONNX_STEP, "gradients_of_pools"),
    Bug("a forget gate that sees its own step", "compiler/onnx_recurrence.py", "slope(f, _before(emit, value, c))", "slope(f, c)", ONNX_STEP, "recurrences"),
    Bug("the masks of the first step in every step", "runtime/onnx_steps.py", "model.randomness.step = step", "model.randomness.step = 0",
        ONNX_STEP, "five_steps and adam"),
    Bug("the state before the last step", "runtime/onnx_steps.py", "self.buffers[self.turn][name].numpy()", "self.buffers[1 - self.turn][name].numpy()",
        ONNX_STEP, "five_steps and adam"),
    Bug("a shift that is not scaled with what it follows", "runtime/absorb.py", "scale, shift, learned = scale * met, shift * met, learned or other.op",
        "scale, shift, learned = scale * met, shift, learned or other.op", "test_absorb.py::test_it_is_folded"),
    Bug("a bundle whose files are not looked at", "runtime/bundle.py", 'if found == entry["sha256"]:', 'if size == entry["bytes"]:', "test_bundle.py"),
    Bug("an export that is never refused", "runtime/verification.py", '"passed": self.differing == 0 and', '"passed": self.differing >= 0 and',
        "test_verification.py"),
    # The language
    Bug("true taken for 1", "compiler/operation.py", "strict=True, ", "", "test_arguments.py", "whole_number or truth or words"),
    Bug("a rate that is no number", "compiler/operation.py", "allow_inf_nan=False, ", "", "test_arguments.py", "finite"),
    Bug("a refusal without words", "compiler/resolve.py", '"bool_type", ', "", "test_arguments.py", "words_of_the_language"),
    Bug("a per mille sign", "compiler/build.py", "syntax.Number(value / 100 if", "syntax.Number(value / 1000 if", "test_language.py::test_constants"),
    Bug("division that rounds towards 0", "compiler/constants.py", "left // right}", "int(left / right)}", "test_language.py::test_constants"),
    # Fewer bits
    Bug("activations without a zero", "runtime/calibration.py", "Grid(scale, min(LAST, round(-low / scale)))", "Grid(scale, 0)",
        "test_quantisation.py::test_the_file_computes_what_the_graph_says"),
    Bug("sums of pairs that overflow", "compiler/quantise.py", "WEIGHT_LEVELS = 64", "WEIGHT_LEVELS = 127",
        "test_quantisation.py::test_weights_and_biases_are_within_half_a_step"),
    Bug("a gain that is a loss", "runtime/quantisation.py", 'lost = before - after if better == "higher"', 'lost = after - before if better == "higher"',
        "test_quantisation.py::test_what_is_lost_is_a_share_of_what_there_was"),
    Bug("softmax in halves", "compiler/halve.py", '("negative", "tanh",', '("softmax", "negative", "tanh",', "test_quantisation.py", "must_stay"),
    # The fast engine
    Bug("a product's second part from where the first began", "runtime/dense.py", "        out += 4 * first\n", "        out += 0 * first\n",
        "test_fast.py::test_products_in_parts_are_the_product"),
    Bug("a tile of a later block that forgets the earlier ones", "runtime/products.py", "panel, to, 4 * a[10], p, bottom", "panel, to, 4 * a[10], 0, bottom",
        "test_products.py"),
    Bug("masks that are the same in every step, compiled", "runtime/masks.py",
        "u64(start // WIDTH + 1), step, u64(a[2])", "u64(start // WIDTH + 1), u64(0), u64(a[2])", "test_fast.py::test_masks_are_numpys_bit_for_bit"),
    Bug("a row that a table lacks taken without a word", "runtime/dense.py", "            int64_at(a[7])[0] = 1\n", "",
        "test_fast.py::test_a_row_that_a_table_lacks_is_refused_by_either_engine"),
    Bug("machine code taken without its checksum", "runtime/machine_code.py", "or hashlib.sha256(content).digest() != digest", "or len(digest) != 32",
        "test_fast.py::test_what_was_compiled_once_is_not_compiled_again"),
    # What is written and compared
    Bug("a decimal that is too short", "runtime/data/shortest.py", "off, reach = np.abs(scaled - m), half * scale",
        "off, reach = np.abs(scaled - m), 2 * half * scale", "test_results.py", "numbers"),
    Bug("weights compared by their shapes", "runtime/reproduce.py", " and one.tobytes() == two.tobytes()", "", "test_reproduce.py", "weights_that_differ"),
    Bug("boxes by half their width", "runtime/layered.py", "(widths[i - 1] + width) / 2 + ACROSS", "width / 2 + ACROSS", "test_inspect.py", "apart"),
]


def copy(folder: Path) -> Path:
    """The package in a folder, laid out as it is installed; compiled files stay valid, as times are copied too."""
    package = folder / "nnc"
    shutil.copytree(ROOT / "nnc", package)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, package / name)
    return package


def plant(bug: Bug, folder: Path) -> str:
    """Copy the package into the folder, with the bug; what is wrong with the entry, or nothing."""
    target = copy(folder) / bug.file.removeprefix("nnc/")
    text = target.read_text("utf-8")
    if text.count(bug.old) != 1:
        return f"{bug.name}: {bug.old!r} stands {text.count(bug.old)} times in {bug.file}; say what it is now"
    target.write_text(text.replace(bug.old, bug.new), "utf-8")
    return ""


def run(package: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """pytest over tests of this tree, with the package of another folder."""
    environment = os.environ | {"PYTHONPATH": str(package), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="the whole suite against each bug, not only the tests that are named")
    parser.add_argument("--only", default="", help="bugs whose name has this in it")
    options = parser.parse_args()
    missed = 0
    for bug in (b for b in BUGS if options.only in b.name):
        with tempfile.TemporaryDirectory() as folder:
            said, begun = plant(bug, Path(folder)), time.monotonic()
            if not said:
                whole = ["tests", "-n", "2", "--deselect", "tests/test_planted.py"]
                done = run(Path(folder), whole if options.all else bug.selection())
                said = {0: "NOT NOTICED", 1: "noticed"}.get(done.returncode, f"pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-500:]}")
            missed += said != "noticed"
            print(f"{bug.name}: {said} ({time.monotonic() - begun:.0f} s)", flush=True)
    print(f"{missed} not noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
