"""The command line: arguments in, exit status out. Each command is a function in commands.py."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import TextIOWrapper

from .compiler.diagnostics import Findings, SpecError, render_text
from .compiler.shown import bytes_in
from .compiler.source import Source

FAILED_WHILE_RUNNING = frozenset(("E510", "E701", "E705", "E706"))  # exit status 3: not finite, disk full, no memory
LATER = ("tune",)


def _bytes(text: str) -> int:
    try:
        return bytes_in(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of bytes: write 500000000, 500MiB or 2GiB") from None


def _spec(of: argparse.ArgumentParser, many: bool = False) -> None:
    of.add_argument("file", nargs="+" if many else None, metavar="FILE", help="a .nn file")
    of.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="replace a `let` constant")
    of.add_argument("--data-root", metavar="DIR", help="where the paths of data sections start; the spec's directory by default")
    of.add_argument("--max-bytes", type=_bytes, default=None, metavar="N", help="refuse what would need more memory, such as 500MiB (default 16GiB)")


def _engine(of: argparse.ArgumentParser) -> None:
    of.add_argument("--engine", choices=("numpy", "fast", "onnxruntime"), help="what runs the steps; default: NNC_ENGINE, or fast where numba is")
    of.add_argument("--device", choices=("cpu", "cuda"), help="where onnxruntime runs them; default: cpu")


def _check_takes(of: argparse.ArgumentParser) -> None:
    _spec(of, many=True)
    of.add_argument("--format", choices=("text", "json", "github"), default="text")
    of.add_argument("--no-data", action="store_true", help="leave data sources unopened")


def _fmt_takes(of: argparse.ArgumentParser) -> None:
    of.add_argument("file", nargs="+", metavar="FILE", help="a .nn file; - reads one from the input and writes it to the output")
    of.add_argument("--check", action="store_true", help="name the files that would change, and change none")


def _summary_takes(of: argparse.ArgumentParser) -> None:
    _spec(of)
    of.add_argument("--engine", choices=("numpy", "fast"), help="whose memory is told; default: NNC_ENGINE, or fast where numba is")


def _build_takes(of: argparse.ArgumentParser) -> None:
    _spec(of)
    of.add_argument("-o", "--out", default="build", metavar="DIR", help="default: build")


def _train_takes(of: argparse.ArgumentParser) -> None:
    _spec(of)
    of.add_argument("-o", "--out", metavar="RUN", help="default: runs/<name>")
    of.add_argument("--resume", action="store_true", help="continue from the last checkpoint, bit for bit")
    _engine(of)


def _eval_takes(of: argparse.ArgumentParser) -> None:
    of.add_argument("run", metavar="RUN")
    of.add_argument("--data", metavar="FILE", help="labelled rows in place of the spec's")
    of.add_argument("--data-root", metavar="DIR")
    of.add_argument("--format", choices=("text", "json"), default="text")


def _predict_takes(of: argparse.ArgumentParser) -> None:
    of.add_argument("model", metavar="RUN", help="a run, or a bundle that `nnc export` wrote")
    of.add_argument("input", metavar="INPUT", help="rows with the columns of the source: .csv, .parquet or .npz, or a folder of images")
    of.add_argument("-o", "--out", required=True, metavar="OUT", help="a .csv, .parquet or .npz file")
    of.add_argument("--device", choices=("cpu", "cuda"), help="where onnxruntime runs a bundle's model; default: cpu")


def _export_takes(of: argparse.ArgumentParser) -> None:
    of.add_argument("run", metavar="RUN")
    of.add_argument("-o", "--out", metavar="DIR", help="default: RUN/export")
    of.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators, in place of the spec's")
    of.add_argument("--data-root", metavar="DIR", help="where the data lies now, for a spec with `quantize`")


def _report_takes(of: argparse.ArgumentParser) -> None:
    of.add_argument("run", metavar="RUN")
    of.add_argument("-o", "--out", metavar="FILE", help="default: RUN/report.html")


def _reproduce_takes(of: argparse.ArgumentParser) -> None:
    of.add_argument("manifest", metavar="MANIFEST", help="the manifest.json of a run or of a bundle")
    of.add_argument("-o", "--out", metavar="DIR", help="keep the new run there; default: a temporary directory")
    of.add_argument("--data-root", metavar="DIR", help="where the paths of the data section start; a run's manifest knows its own")


def _inspect_takes(of: argparse.ArgumentParser) -> None:
    of.add_argument("model", metavar="MODEL", help="an .onnx file; nothing of it is run")
    of.add_argument("-o", "--out", metavar="FILE", help="draw the graph into an .svg file")
    of.add_argument("--format", choices=("text", "json"), default="text")


def _run_takes(of: argparse.ArgumentParser) -> None:
    _spec(of)
    of.add_argument("-o", "--out", metavar="RUN", help="default: runs/<name>")
    of.add_argument("--resume", action="store_true", help="continue from the last checkpoint, bit for bit")
    _engine(of)


def _explain_takes(of: argparse.ArgumentParser) -> None:
    of.add_argument("code", metavar="CODE")


def _doctor_takes(of: argparse.ArgumentParser) -> None:
    of.add_argument("--warm", nargs="*", default=None, metavar="FILE",
                      help="compile the fast engine's kernels ahead, and the loops that training these specs takes")
    of.add_argument("--data-root", metavar="DIR", help="where the paths of data sections start; each spec's directory by default")


def _new_takes(of: argparse.ArgumentParser) -> None:
    of.add_argument("name", metavar="NAME", help="the file to write, .nn is added")
    of.add_argument("--template", default="digits", metavar="T", help="default: digits")


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "check": ("find every mistake before anything runs", _check_takes),
    "fmt": ("write files in the one layout", _fmt_takes),
    "summary": ("layers, shapes, parameters, operations and bytes", _summary_takes),
    "build": ("compile to an ONNX file with initial or given weights, and the plan of a step", _build_takes),
    "train": ("build, then train into a run directory", _train_takes),
    "eval": ("loss and metrics of a run on every split, or on new labelled rows", _eval_takes),
    "predict": ("predictions for a file of raw rows", _predict_takes),
    "export": ("the verified ONNX model of a run", _export_takes),
    "report": ("one page about a run: figures, curves, verdict, export, environment", _report_takes),
    "reproduce": ("train again from what a manifest records, and compare the bytes", _reproduce_takes),
    "inspect": ("what an ONNX file of any origin holds: inputs, outputs, nodes, shapes, sizes", _inspect_takes),
    "run": ("check, build, train, eval, export and report: the whole way in one word", _run_takes),
    "explain": ("the long explanation of a diagnostic", _explain_takes),
    "doctor": ("what this machine offers, and what is wrong with it", _doctor_takes),
    "new": ("a spec to start from", _new_takes),
}


def parser(commands: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of these commands: where one is asked for, a start does not wait for the arguments of the others."""
    top = argparse.ArgumentParser(prog="nnc", description="Compile .nn files into trained, verified ONNX models.")
    found = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in commands:
        help, arguments = COMMANDS[name]
        arguments(found.add_parser(name, help=help, description=help[0].upper() + help[1:] + "."))
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done; 1 refused, or a check failed; 2 wrong usage; 3 failed while running; 130 interrupted."""
    try:
        return _status(list(sys.argv[1:] if arguments is None else arguments))
    finally:
        _let_go()


def _status(given: list[str]) -> int:
    if given[:1] and given[0] in LATER:
        print(f"nnc: `{given[0]}` is not available in this version", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        return _run(parser(given[:1] if given[:1] and given[0] in COMMANDS else COMMANDS).parse_args(given))
    except SpecError as error:
        _say("\n".join(render_text(diagnostic) for diagnostic in error.diagnostics))
        codes = {d.code for d in error.diagnostics}
        return 3 if codes & FAILED_WHILE_RUNNING else 1
    except KeyboardInterrupt as stop:
        return _interrupted(stop)
    except RuntimeError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C while a class was made: Python 3.11 wraps what comes then
            return _interrupted(error.__cause__)
        raise
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        return 0


def _interrupted(stop: KeyboardInterrupt) -> int:
    _say(f"nnc: interrupted{'; continue with --resume' if type(stop) is not KeyboardInterrupt else ''}")
    return 130


def _say(text: str) -> None:
    """The last word, where somebody takes it; the exit status is the same without."""
    with suppress(OSError):
        print(text, file=sys.stderr)


def _run(options: argparse.Namespace) -> int:
    """The command's status; what the machine refuses becomes a diagnostic."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them reads every installed package's metadata
    atexit.register(gc.freeze)  # the process ends, and with it all that it holds: looking through that for garbage first is time lost
    gc.disable()  # what is imported stays: looking for garbage among it is time lost
    from . import commands

    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # a graph is a great many objects without a cycle: looking through it every 700 of them is time lost as well
    gc.enable()

    findings = Findings(Source("", ""))
    try:
        status: int = getattr(commands, options.command)(options)
        if sys.stdout is not None:  # closed by the caller: `>&-`
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        raise
    except MemoryError as error:
        findings.add("E705", None, str(error), help="use a smaller batch or network, or less data at once")
    except OSError as error:
        path = error.filename or "the output"  # our own, a full disk behind `>`
        findings.add("E706", None, str(error.strerror), path=path, help="check its permissions, and the space that is left")
    findings.stop_on_errors()
    raise AssertionError("both are errors")


def _let_go() -> None:
    """What an output did not take is dropped: Python would try again at exit, and end with another status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
