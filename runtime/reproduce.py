"""`nnc reproduce`: train again from what a manifest says, and compare the bytes.

A run's or a bundle's manifest names the spec, its constants and seed, the SHA-256 of data, split and weights to start from, and the environment.
The training is repeated on the recorded engine and number of threads where this machine has them. Then the weights of a run must be the
same bits, or the model of a bundle the same file. What differs before the training (the data) ends it; what differs beside it (versions,
engine, threads) is told, because that is why bits differ where they do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler import pipeline
from nnc.compiler.diagnostics import SpecError
from nnc.compiler.lower import NO_LIMIT
from nnc.compiler.source import Source

from .bundle import MANIFEST, Bundle, open_bundle
from .data.dataset import open_data
from .deploy import deploy
from .engine import choose
from .ensemble import Ensemble
from .files import refuse
from .initial import weight_files
from .machine import environment, versions
from .members import parts
from .model import Model
from .predict import of_model
from .run import Run, split_digest
from .threads import with_threads
from .train import Progress, train

SHOWN = 4  # arrays that are named


@dataclass(frozen=True)
class Finding:
    """One thing that was compared. `decides`: whether the training was reproduced hangs on it."""

    what: str
    equal: bool
    told: str
    decides: bool = False


@dataclass(frozen=True)
class Recorded:
    """What a manifest says that a training was made of; `compared` is its run or its bundle."""

    path: Path
    source: Source
    about: Mapping[str, Any]
    root: Path | None
    compared: Run | Bundle


def recorded(path: Path) -> Recorded:
    """A manifest and what lies beside it. E401 where there is none, E613, E702 and E703 for what is no whole record of a training."""
    path = path / MANIFEST if path.is_dir() else path
    if not path.is_file():
        refuse("E401", "there is no such file", "give the manifest.json of a run or of a bundle", path=str(path))
    if path.name != MANIFEST:
        refuse("E613", f"it is not called {MANIFEST}", "give the manifest where nnc wrote it: what lies beside it is compared", path=str(path))
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and {"format", "files", "model"} <= content.keys():
        bundle = open_bundle(path.parent)
        about, text, root, compared = bundle.manifest, bundle.spec, None, bundle
        return Recorded(path, _spec(path, about, text), about, root, compared)
    run = Run(path.parent)
    about = run.manifest()
    if not run.spec.is_file():
        refuse("E401", f"it was beside {path}", "restore it: the training is repeated from it", path=str(run.spec))
    if not (run.path / "figures.json").is_file():
        refuse("E613", "its training has not ended", "finish it: nnc train ... --resume", path=str(path))
    return Recorded(path, _spec(path, about, run.spec.read_bytes().decode("utf-8", "replace")), about, Path(about["data"]["root"]), run)


def _spec(path: Path, about: Mapping[str, Any], text: str) -> Source:
    wanted = {"split": dict, "constants": dict, "environment": dict}
    if not all(isinstance(about.get(key), kind) for key, kind in wanted.items()) or not isinstance(about["spec"].get("name"), str):
        refuse("E613", "it does not record all that a training depends on", "train again with this version", path=str(path))
    if hashlib.sha256(text.encode()).hexdigest() != about["spec"]["sha256"]:
        refuse("E702", "spec.nn is not the spec that was trained", "restore it", path=str(path.parent))
    return Source(about["spec"]["name"], text)


def reproduce(made: Recorded, out: Path, root: Path | None, progress: Progress) -> Iterator[Finding]:
    """Findings as they are made: first of the data and the environment, then, after the training into `out`, of what came out."""
    about = made.about
    if out.resolve() == made.path.parent.resolve():
        refuse("E704", "it is what is to be reproduced", "give another directory with -o", path=str(out))
    root = root or made.root or Path()
    program = pipeline.analyse(made.source, root=root, overrides=about["constants"], max_bytes=NO_LIMIT)
    _, data = next(parts(open_data(program, root, NO_LIMIT)))
    data_findings = [
        _digest("data", about["data"]["sha256"], data.digest),
        _digest("split", about["split"].get("sha256"), split_digest(data.splits)),
        *(_digest(name, dict(about.get("weights") or {}).get(name), digest) for name, digest in weight_files(program, root).items()),
    ]
    yield from data_findings
    if not all(finding.equal for finding in data_findings):
        return
    before = about["environment"]
    name, device = _engine(str(before.get("engine")))
    with with_threads(_threads(before)):
        yield from _environment(before, environment(choose(name, device).described), about.get("versions", {}))
        train(made.source, root, out, overrides=about["constants"], progress=progress, max_bytes=NO_LIMIT, engine=name, device=device)
    run = Run(out)
    yield from _of_bundle(made.compared, run) if isinstance(made.compared, Bundle) else _of_run(made.compared, run)


def _digest(what: str, wanted: Any, found: str) -> Finding:
    if wanted == found:
        return Finding(what, True, f"SHA-256 {found[:16]}...", decides=True)
    return Finding(what, False, f"SHA-256 {found[:16]}..., recorded is {str(wanted)[:16]}...", decides=True)


def _engine(described: str) -> tuple[str | None, str | None]:
    """The name and the device of the recorded engine; of none, where this machine lacks it."""
    name, _, device = described.partition(" on ")
    name = re.split(r"[^a-z]", name, maxsplit=1)[0]
    try:
        chosen = choose(name, device or None)
    except SpecError:
        return None, None
    return chosen.name, chosen.device if chosen.name == "onnxruntime" else None


def _threads(before: Mapping[str, Any]) -> int | None:
    blas = before.get("blas")
    threads = blas.get("threads") if isinstance(blas, dict) else None
    return threads if isinstance(threads, int) and 0 < threads <= 1024 else None


def _environment(before: Mapping[str, Any], now: Mapping[str, Any], exported: Mapping[str, Any]) -> Iterator[Finding]:
    """Everything in which the environments differ, each on its own, or that they do not."""
    was, here = _flat(before), _flat(now)
    if exported:
        was, here = was | _flat({"versions": exported}), here | _flat({"versions": versions()})
    different = [key for key in dict.fromkeys((*was, *here)) if was.get(key) != here.get(key)]
    for key in different:
        yield Finding(key, False, f"{here.get(key, 'nothing')} here, recorded is {was.get(key, 'nothing')}")
    if not different:
        yield Finding("environment", True, f"{here['engine']}, {here.get('blas threads', '?')} threads, versions as recorded")


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{before}{key} ") if isinstance(value, dict) else {f"{before}{key}".removeprefix("versions "): value}
    return found


# What came out


def _of_run(first: Run, second: Run) -> Iterator[Finding]:
    """The weights, as bytes; then what the differences mean for predictions."""
    one, two = first.model(), second.model()
    mine, its = _arrays(one), _arrays(two)
    different = [name for name in {**mine, **its} if name not in mine or name not in its or not _same(mine[name], its[name])]
    if not different:
        yield Finding("weights", True, f"{len(mine)} arrays, the same bytes", decides=True)
    else:
        both = [name for name in different if name in mine and name in its and mine[name].shape == its[name].shape]
        most = max((float(np.abs(mine[name].astype(np.float64) - its[name]).max(initial=0)) for name in both), default=0.0)
        named = ", ".join(different[:SHOWN]) + (" ..." if len(different) > SHOWN else "")
        yield Finding("weights", False, f"{len(different)} of {len(mine)} arrays, by at most {most:.1e}: {named}", decides=True)
    rows = first.rows()
    if rows is not None:
        yield from _predictions(one, two, rows)


def _arrays(model: Model | Ensemble) -> dict[str, np.ndarray[Any, Any]]:
    known = model.known if isinstance(model, Ensemble) else dict(model.parameters) | model.learned
    return {name: np.ascontiguousarray(array) for name, array in known.items()}


def _same(one: np.ndarray[Any, Any], two: np.ndarray[Any, Any]) -> bool:
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()


def _predictions(one: Model | Ensemble, two: Model | Ensemble, rows: Mapping[str, np.ndarray[Any, Any]]) -> Iterator[Finding]:
    first, second = of_model(one), of_model(two)
    fed = {name: rows[name] for name in first.inputs}
    count = len(next(iter(fed.values())))
    mine = {name: array.copy() for name, array in first.compute(fed).items()}
    its = second.compute(fed)
    for name, array in mine.items():
        other = its[name]
        if array.dtype == object:
            parted = int((array != other).sum())
            yield Finding(f"predictions of {name}", not parted, f"{parted:,} of {count} kept rows are decided otherwise" if parted else f"{count} kept rows")
        elif _same(array, other):
            yield Finding(f"predictions of {name}", True, f"{count} kept rows, the same bytes")
        else:
            most = float(np.abs(array.astype(np.float64) - other).max(initial=0))
            yield Finding(f"predictions of {name}", False, f"by at most {most:.1e} on {count} kept rows")


def _of_bundle(first: Bundle, run: Run) -> Iterator[Finding]:
    """The exported file, byte by byte, and what belongs to it."""
    opset = first.verification.get("opset")
    place = run.export
    deploy(run, run.model(), place, opset=opset if isinstance(opset, int) else None)
    second = open_bundle(place)
    name = first.manifest["model"]
    if second.manifest["model"] != name:
        yield Finding(name, False, f"it is called {second.manifest['model']}", decides=True)
        return
    for file in (name, "signature.json"):
        mine, its = first.content.get(file, b""), second.content[file]
        if mine == its:
            yield Finding(file, True, f"{len(its):,} bytes, the same", decides=True)
            continue
        least = min(len(mine), len(its))
        parted = int((np.frombuffer(mine, np.uint8, least) != np.frombuffer(its, np.uint8, least)).sum()) + abs(len(mine) - len(its))
        yield Finding(file, False, f"{parted:,} of {len(mine):,} bytes", decides=file == name)
