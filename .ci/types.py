"""Run mypy over the package and over the benchmarks.

mypy cannot follow the hook of an editable install, so it is given a folder in which the package lies as it does in a wheel: links
from .typecheck/nnc/<part> to the folders at the top of the repository.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"compiler": "compiler", "runtime": "runtime", "grammar": "grammar", "specs": "specs"}


def link_tree() -> Path:
    folder = ROOT / ".typecheck" / "nnc"
    folder.mkdir(parents=True, exist_ok=True)
    targets = {name: ROOT / part for name, part in PARTS.items()} | {p.name: p for p in (ROOT / "nnc").glob("*.py")}
    for name, target in targets.items():
        link = folder / name
        if not link.exists():
            link.unlink(missing_ok=True)  # one that leads nowhere
            link.symlink_to(target)
    return folder


if __name__ == "__main__":
    link_tree()
    scripts = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "benchmarks").rglob("*.py"))]
    package = subprocess.call([sys.executable, "-m", "mypy", "-p", "nnc"], cwd=ROOT)
    raise SystemExit(package or subprocess.call([sys.executable, "-m", "mypy", *scripts], cwd=ROOT))
