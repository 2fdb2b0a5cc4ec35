"""One function a command. NumPy, onnx and onnxruntime are imported by the commands that need them."""

from __future__ import annotations

import json
import shutil
import sys
import time
from argparse import Namespace
from contextlib import ExitStack
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import terminal
from .compiler import pipeline
from .compiler.codes import CODES
from .compiler.diagnostics import Diagnostic, Findings, SpecError, did_you_mean, render_github, render_json, render_text
from .compiler.lower import MAX_BYTES, NO_LIMIT
from .compiler.shown import bytes_of, count
from .compiler.source import Source

if TYPE_CHECKING:
    from .runtime.ensemble import Ensemble
    from .runtime.model import Model
    from .runtime.run import Run


def _overrides(options: Namespace) -> dict[str, str]:
    found = {}
    for given in options.set:
        name, equals, value = given.partition("=")
        if not equals or not name.strip():
            print(f"nnc: --set {given}: write --set name=value", file=sys.stderr)
            raise SystemExit(2)
        found[name.strip()] = value.strip()
    return found


def _root(options: Namespace, spec: Path) -> Path:
    return Path(options.data_root) if options.data_root is not None else spec.parent


def _limit(options: Namespace) -> int:
    return options.max_bytes or MAX_BYTES


def _analyse(options: Namespace, file: str) -> pipeline.Program:
    path = Path(file)
    no_data = getattr(options, "no_data", False)
    return pipeline.analyse(
        pipeline.read(path), root=None if no_data else _root(options, path), overrides=_overrides(options), max_bytes=_limit(options)
    )


def _show_advice(program: pipeline.Program) -> None:
    for diagnostic in program.findings.advice:
        print(render_text(diagnostic), file=sys.stderr)


def _refuse(code: str, label: str, help: str, **values: Any) -> None:
    findings = Findings(Source("", ""))
    findings.add(code, None, label, help=help, **values)
    findings.stop_on_errors()


def check(options: Namespace) -> int:
    found: list[Diagnostic] = []
    refused = 0
    for file in options.file:
        try:
            program = _analyse(options, file)
            found += program.findings.advice
            if options.format == "text":
                network = program.experiment.network
                parameters = sum(_product(p.shape) for p in program.inference.parameters.values())
                members = program.experiment.members
                times = f", {members} times: an ensemble" if members > 1 else ""
                print(f"{file}: ok, {len(network.applications)} layers, {parameters:,} parameters{times}")
        except SpecError as error:
            refused += 1
            found += error.diagnostics
    if options.format == "json":
        print(render_json(found))
    elif options.format == "github":
        for diagnostic in found:
            print(render_github(diagnostic))
    else:
        for diagnostic in found:
            print(render_text(diagnostic), file=sys.stderr)
    return 1 if refused else 0


def fmt(options: Namespace) -> int:
    from .compiler.formatting import formatted

    refused = differing = 0
    for file in options.file:
        try:
            given = _bytes(file)
            made = formatted(pipeline.decoded(given, "<stdin>" if file == "-" else file)).encode()
            differing += made != given
            if options.check:
                if made != given:
                    print(f"{'<stdin>' if file == '-' else file}: would change")
            elif file == "-":
                _put(made)
            elif made != given:
                from .runtime.files import write_bytes

                write_bytes(Path(file), made)
                print(file)
        except SpecError as error:
            refused += 1
            for diagnostic in error.diagnostics:
                print(render_text(diagnostic), file=sys.stderr)
    return 1 if refused or (options.check and differing) else 0


def _bytes(file: str) -> bytes:
    """A spec as it stands in its file; `-` is the standard input."""
    if file == "-":
        return sys.stdin.buffer.read() if sys.stdin is not None else b""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        _refuse("E401", str(error.strerror), "give the path of a .nn file", path=file)
        raise AssertionError("refused") from error


def _put(data: bytes) -> None:
    """Bytes as they are, whatever encoding the output has; nowhere if it is closed."""
    if sys.stdout is None:
        return
    sys.stdout.flush()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.buffer.write(data)
    else:
        sys.stdout.write(data.decode())


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for d in shape:
        size *= d
    return size


def summary(options: Namespace) -> int:
    from .compiler.cost import cost, training_samples
    from .runtime.engine import choose

    program = _analyse(options, options.file)
    fast = choose(options.engine).name == "fast"
    found = cost(program, fast)
    rows = [[c.path, c.operation, c.output, f"{c.parameters:,}" if c.parameters else "", count(c.flops) if c.flops else ""] for c in found.layers]
    for declared in reversed(program.experiment.network.inputs):
        rows.insert(0, [declared.name, "input", str(list(declared.shape)) if declared.shape else "scalar", "", ""])
    print(terminal.table(["layer", "operation", "output", "parameters", "flops"], rows, (3, 4)))
    print()
    print(f"parameters  {found.parameters:,} ({bytes_of(found.parameter_bytes)})")
    samples = training_samples(program)
    if samples:
        print(f"samples     {samples:,} in training, {found.parameters / samples:.3g} parameters for each")
    print(f"flops       {count(found.flops)} a sample, forward")
    if found.training_bytes is not None:
        print(f"training    {bytes_of(found.training_bytes)} at batch {found.batch:,}, on {'the fast engine' if fast else 'NumPy'}")
    print(f"inference   {bytes_of(found.inference_bytes)} at batch {found.batch:,}")
    if found.members > 1:
        n = found.members
        print(f"ensemble    {n} such networks, trained one after another: {n} times the time; the exported one has {n * found.parameters:,} parameters "
              f"({bytes_of(n * found.parameter_bytes)}) and {count(n * found.flops)} flops a sample")  # fmt: skip
    return 0


def build(options: Namespace) -> int:
    path = Path(options.file)
    source = pipeline.read(path)
    target = Path(options.out) / path.stem
    program = pipeline.analyse(source, root=_root(options, path), overrides=_overrides(options), max_bytes=_limit(options))
    _show_advice(program)
    from .runtime.build import build as compile_to

    fresh = compile_to(program, _root(options, path), target, _limit(options), lambda text: print(f"note: {text}", file=sys.stderr))
    if not fresh:
        print(f"{target}: unchanged, nothing to build")
        return 0
    for name in fresh:
        print(target / name)
    return 0


def _train(options: Namespace) -> Any:
    path = Path(options.file)
    source = pipeline.read(path)
    out = Path(options.out) if options.out else Path("runs") / path.stem
    from .runtime.train import train as run

    lines = terminal.Lines()
    try:
        return run(source, _root(options, path), out, overrides=_overrides(options), resume=options.resume, progress=lines.observe(),
                   max_bytes=_limit(options), engine=options.engine, device=options.device)  # fmt: skip
    finally:
        lines.close()


def _report(result: Any) -> None:
    print(terminal.figures(result.figures))
    print()
    if len(result.model.members) > 1:
        print(terminal.spread(result.spread))
        print()
        print(terminal.verdicts([member.verdict for member in result.members]))
        print()
        print(f"trained {len(result.members)} members in {result.seconds:.1f} s")
        print(f"run     {result.run}")
        return
    print(terminal.verdict(result.verdict))
    print()
    if result.best_epoch is not None and result.model.program.train.stop is not None:
        why = "stopped early, " if result.stopped_early else ""
        print(f"{why}kept the weights of epoch {result.best_epoch}")
    print(f"trained {len(result.history)} epochs in {result.seconds:.1f} s")
    print(f"run     {result.run}")


def train(options: Namespace) -> int:
    result = _train(options)
    _report(result)
    return 0


def eval(options: Namespace) -> int:
    from .runtime.data.dataset import open_data
    from .runtime.data.rows import labelled
    from .runtime.members import judged, spread
    from .runtime.metrics import Evaluator
    from .runtime.run import Run

    run = Run(Path(options.run))
    model = run.model()
    if options.data is not None:
        evaluator = Evaluator.of(model)
        found = {"data": evaluator.figures(batch for chunk in labelled(model, Path(options.data)) for batch in evaluator.cut(chunk))}
        members: list[Any] = []
    else:
        manifest = run.manifest()["data"]
        root = Path(options.data_root or manifest["root"])
        experiment = model.program.experiment
        opened = open_data(pipeline.analyse(experiment.source, root=root, overrides=experiment.overrides, max_bytes=NO_LIMIT), root, NO_LIMIT)
        found, members = judged(model, opened, manifest["sha256"])
    if options.format == "json":
        print(json.dumps(found | ({"members": members} if members else {}), indent=2))
    else:
        print(terminal.figures(found))
        if members:
            print()
            print(terminal.spread(spread(members)))
    return 0


def predict(options: Namespace) -> int:
    from .runtime.bundle import open_bundle
    from .runtime.files import refuse
    from .runtime.predict import of_model
    from .runtime.predict import predict as write_predictions
    from .runtime.run import Run, is_run

    path = Path(options.model)
    if not is_run(path) and (path / "manifest.json").is_file():
        from .runtime.deployed import of_bundle

        by = of_bundle(open_bundle(path), options.device or "cpu")
    else:
        by = of_model(Run(path).model())
        if options.device == "cuda":
            refuse("E709", f"{path} is a run, and NumPy predicts for runs", "export it, and predict with the bundle", device="cuda")
    drawn = terminal.Rows()
    try:
        rows = write_predictions(by, Path(options.input), Path(options.out), drawn)
    finally:
        drawn.close()
    print(f"{options.out}: {rows:,} rows, by {by.engine}")
    return 0


def _export(run: Run, model: Model | Ensemble, directory: Path, data_root: str | None, opset: int | None = None) -> None:
    from .runtime.deploy import deploy

    report = deploy(run, model, directory, opset=opset, data_root=Path(data_root) if data_root is not None else None)
    worst = max(found["absolute"] for found in report["outputs"].values())
    print(f"bundle  {directory}")
    print(f"        {report['file']} verified with onnxruntime {report['onnxruntime']} on {report['rows']} rows: largest difference {worst:.1e}")
    if "quantisation" in report:
        print()
        print(terminal.quantisation(report["quantisation"]))


def export(options: Namespace) -> int:
    from .runtime.run import Run

    run = Run(Path(options.run))
    _export(run, run.model(), Path(options.out) if options.out else run.export, options.data_root, options.opset)
    return 0


def run(options: Namespace) -> int:
    from .runtime.run import Run

    result = _train(options)
    _report(result)
    done = Run(result.run)
    _export(done, result.model, done.export, options.data_root)
    _page(done, done.report)
    return 0


def reproduce(options: Namespace) -> int:
    from tempfile import TemporaryDirectory

    from .runtime.reproduce import recorded
    from .runtime.reproduce import reproduce as train_again

    made = recorded(Path(options.manifest))
    root = Path(options.data_root) if options.data_root is not None else None
    lines, equal = terminal.Lines(), True
    with ExitStack() as stack:
        stack.callback(lines.close)
        out = Path(options.out) if options.out is not None else Path(stack.enter_context(TemporaryDirectory(prefix="nnc-"))) / "run"
        for finding in train_again(made, out, root, lines.observe()):
            lines.close()
            print(f"{'  ' if finding.equal else '! '}{finding.what:<29} {finding.told}")
            equal = equal and (finding.equal or not finding.decides)
    print("reproduced: the same bytes" if equal else "not reproduced")
    return 0 if equal else 1


def report(options: Namespace) -> int:
    from .runtime.run import Run

    run = Run(Path(options.run))
    _page(run, Path(options.out) if options.out else run.report)
    return 0


def _page(run: Run, path: Path) -> None:
    from .runtime.files import write_text
    from .runtime.recorded import recorded
    from .runtime.report import page

    write_text(path, page(recorded(run)))
    print(f"report  {path}")


def inspect(options: Namespace) -> int:
    from .runtime.onnx_file import read_onnx

    file = read_onnx(Path(options.model))
    if options.out is not None:
        from .runtime.files import require_other, write_text
        from .runtime.graph_picture import graph_picture

        require_other(Path(options.out), Path(options.model))
        write_text(Path(options.out), graph_picture(file))
    print(json.dumps(file.content(), indent=2) if options.format == "json" else terminal.onnx_file(file))
    if options.out is not None:
        print(f"picture {options.out}", file=sys.stderr if options.format == "json" else sys.stdout)
    return 0


def explain(options: Namespace) -> int:
    code = options.code.upper()
    if code not in CODES:
        print(f"nnc: there is no diagnostic {options.code}: {did_you_mean(code, CODES)}", file=sys.stderr)
        return 2
    print(f"{code}: {CODES[code].heading}\n\n{CODES[code].explanation}")
    return 0


def doctor(options: Namespace) -> int:
    if options.warm is not None:
        return _warm(options)
    from .runtime.doctor import examine

    problems = 0
    for finding in examine():
        print(f"{'!' if finding.problem else ' '} {finding.what:<16}{finding.found}")
        if finding.problem:
            problems += 1
            print(f"  {'':<16}{finding.problem}")
    return 1 if problems else 0


def _warm(options: Namespace) -> int:
    from .runtime.machine_code import folder
    from .runtime.warm import warm

    begun = time.perf_counter()
    programs = []
    for file in options.warm:
        root = _root(options, Path(file))
        programs.append((pipeline.analyse(pipeline.read(Path(file)), root=root), root))
    kept, fresh = warm(programs, MAX_BYTES)
    print(f"{folder()}: {kept} compiled functions, {fresh} of them new, {time.perf_counter() - begun:.1f} s")
    return 0


def new(options: Namespace) -> int:
    from . import specs

    folder = Path(specs.__file__).parent
    templates = sorted(p.stem for p in folder.glob("*.nn"))
    if options.template not in templates:
        print(f"nnc: there is no template {options.template}: {did_you_mean(options.template, templates)}", file=sys.stderr)
        return 2
    path = Path(options.name if options.name.endswith(".nn") else f"{options.name}.nn")
    if path.exists():
        _refuse("E704", "it exists", "choose another name", path=str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / f"{options.template}.nn", path)
    except OSError as error:
        _refuse("E701", str(error.strerror), "choose another place", path=str(path))
    print(f"{path}: try `nnc run {path}`")
    return 0

