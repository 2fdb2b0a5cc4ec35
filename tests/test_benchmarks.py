"""The comparison with the peers: it runs, it compares like with like, and its arithmetic is right."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import inference
import numpy as np
import pytest
from conditions import environment
from contestants import CONTESTANTS
from nnc_trainer import write
from processes import outrun
from products import products
from report import summarise, tables
from workloads import WORKLOADS, Dense

import nnc
from nnc.runtime.device import obstacle

COMPARE = Path(__file__).parent.parent / "benchmarks" / "compare"


def compare(*options):
    return subprocess.run([sys.executable, str(COMPARE), *options], capture_output=True, text=True, timeout=120, check=False, env=environment())


def test_a_quick_run_goes_the_whole_way(tmp_path):
    pytest.importorskip("sklearn")
    done = compare("--quick", "--workloads", "mlp-s", "lstm", "--contestants", "nnc", "sklearn", "--results", str(tmp_path), "--name", "trial")
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "trial.json").read_text())
    assert [(line["contestant"], line["workload"]) for line in written["lines"]] == [("nnc", "mlp-s"), ("sklearn", "mlp-s"), ("nnc", "lstm")]
    assert all(line["steps"] == 3 and 0 < line["epoch"] < line["first_epoch"] for line in written["lines"])
    assert np.isfinite([line["last_loss"] for line in written["lines"]]).all()
    workloads = written["summary"]["workloads"]
    assert workloads["mlp-s"]["fastest_peer"] == "sklearn"
    assert workloads["lstm"]["fastest_peer"] is None
    assert written["summary"]["geometric_mean"]["nnc"] == pytest.approx(workloads["mlp-s"]["ratios"]["nnc"])
    assert "samples/s over the fastest peer" in done.stdout


def test_a_peer_that_is_not_installed_is_left_out(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\nexec {sys.executable} -S -E \"$@\"\n")
    bare.chmod(0o755)
    done = compare("--quick", "--workloads", "mlp-s", "--contestants", "torch", "--python", str(bare), "--results", str(tmp_path))
    assert "left out: torch" in done.stdout, done.stderr
    assert "nothing was measured" in done.stdout


def test_growth_is_measured_point_by_point(tmp_path):
    """On both engines and as bare products; what was measured before stays in the file."""
    pytest.importorskip("numba")
    script = COMPARE.parent / "growth.py"
    for depths in ([2, 8], [4]):
        command = [sys.executable, str(script), "--quick", "--grow", "depth", "--values", *map(str, depths), "--results", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment())
        assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "growth.json").read_text())["series"]["depth"]
    assert [point["value"] for point in points] == [2, 4, 8]
    assert points[2]["flops"] == 2 * 256**3 * (3 * 8 - 1)  # the first layer has no input gradient
    for point in points:
        for name in ("numpy", "fast", "products"):
            assert point[name]["picoseconds_per_flop"] * point["flops"] == pytest.approx(1e12 * point[name]["step"])
        assert point["fast"]["step"] < point["fast"]["first_cold"]
    pytest.importorskip("matplotlib")
    assert "bare products" in (tmp_path / "growth.svg").read_text()


# Answers


def run_script(name, *options):
    return subprocess.run([sys.executable, str(COMPARE / name), *options], capture_output=True, text=True, timeout=120, check=False, env=environment())


def test_answers_are_compared_in_processes_of_their_own(tmp_path):
    done = run_script("inference.py", "--quick", "--workloads", "mlp-s", "tabular", "--contestants", "onnxruntime", "nnc", "torch", "--results",
                      str(tmp_path), "--name", "trial")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "trial.json").read_text())
    assert written["failures"] == []
    assert {line["workload"] for line in written["lines"]} == {"mlp-s", "tabular"}
    for line in written["lines"]:
        assert 0 < line["batch_1"] < line["cold"]
        assert line["batch_256"] > 0
    assert "us, batch 256" in done.stdout


def test_a_contestant_that_answers_something_else_has_no_figures(monkeypatch, tmp_path):
    measurement = inference.Measurement(inference.arguments(["--contestants", "onnxruntime", "nnc", "--quick"]), tmp_path)
    figures = {"cold": 1.0, "batch_1": 1e-5, "batch_256": 1e-4}
    answers = iter([[0.25, 0.75], [0.25, 0.75001], [0.26, 0.74]])
    monkeypatch.setattr(inference, "line", lambda command, caches: {"contestant": command[2], "workload": "mlp-s", "answer": next(answers), **figures})
    known = []
    for contestant in ("onnxruntime", "nnc", "nnc"):
        measurement.answer(contestant, "mlp-s", known)
    assert len(measurement.lines) == 2
    assert [failure["contestant"] for failure in measurement.failures] == ["nnc"]
    summary = inference.summarise(measurement.lines)
    assert summary["mlp-s"]["nnc"] == {"cold_first": 1.0} | figures


def test_without_a_gpu_one_line_says_what_is_missing(tmp_path):
    if obstacle() is None:
        pytest.skip("there is a GPU")
    done = run_script("../gpu.py", "--results", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout.startswith("no CUDA device: ")
    assert len((done.stdout + done.stderr).splitlines()) == 1


def test_what_a_gpu_would_do_is_done_on_the_cpu(tmp_path):
    done = run_script("../gpu.py", "--device", "cpu", "--quick", "--workloads", "mlp-m", "--results", str(tmp_path), "--name", "trial")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "trial.json").read_text())["workloads"]["mlp-m"]
    ours, theirs = found["onnxruntime"], found["torch"]
    assert ours["providers"] == list(ours["placement"]) == ["CPUExecutionProvider"]
    assert sum(ours["placement"]["CPUExecutionProvider"].values()) >= 4
    assert ours["tf32_changes"] == 0
    assert ours["step"] > 0
    if "error" in theirs:
        pytest.skip(theirs["error"])
    assert found["answers_differ_by"] < 1e-5
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-4)


# Memory


def test_the_memory_of_a_training_is_what_was_predicted():
    """Within 10%, of a small dense network, one with images and one with sequences, on both engines."""
    pytest.importorskip("numba")
    script = COMPARE.parent / "memory.py"
    command = [sys.executable, str(script), "mlp-s", "lenet", "lstm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    ratios = {tuple(line.split()[:2]): float(line.split()[-1]) for line in done.stdout.splitlines()[1:-1]}
    assert set(ratios) == {(name, engine) for name in ("mlp-s", "lenet", "lstm") for engine in ("numpy", "fast")}
    assert all(0.9 < ratio < 1.1 for ratio in ratios.values()), done.stdout


# Starts


def test_starts_and_deep_networks_are_measured():
    script = COMPARE.parent / "start.py"
    done = subprocess.run([sys.executable, str(script), "--processes", "1", "--layers", "20", "40"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(maxsplit=2) for line in done.stdout.splitlines()[-3:]]
    assert [row[0] for row in rows] == ["dense, relu", "residual", "residual, images"]
    assert all(0 < float(few) < float(many) for _, few, many in rows), done.stdout
    assert "shakespeare" in done.stdout


# Reading files


def test_reading_a_csv_file_is_measured():
    script = COMPARE.parent / "csv_reading.py"
    command = [sys.executable, str(script), "mixed", "17-digits", "--rows", "2000", "--processes", "1", "--contestants", "numpy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    figures = {line.split()[0]: float(line.split()[2]) for line in done.stdout.splitlines()[1:]}
    assert figures.keys() == {"mixed", "17-digits"}
    assert all(seconds > 0 for seconds in figures.values())


# What is trained

SIDE_BY_SIDE = 3  # steps


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_spec_and_the_torch_network_have_equal_losses(name, tmp_path):
    torch = pytest.importorskip("torch")
    import torch_peer

    workload = WORKLOADS[name]
    data = workload.data(16)
    write(workload, data, tmp_path)
    # without dropout, whose masks differ, and in float64, where nothing but a difference in meaning shows
    text = workload.spec.read_text().replace("dropout(0.2)", "dropout(0)").replace("batch     =", "precision = float64\n  batch     =")
    program = nnc.compile(text, data_root=tmp_path)
    model = program.init(seed=3)
    if isinstance(workload, Dense):
        workload = dataclasses.replace(workload, dropout=0.0)
    network = torch_peer.network(workload).double()
    torch_peer.copy_weights(model.parameters, network)
    inputs, label = torch_peer.place(workload, data, frozenset(), tmp_path)
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    label = label.double() if label.is_floating_point() else label
    peer = torch_peer.TorchTraining(workload, network, inputs, label)
    batches = [np.arange(i, i + 8) for i in (0, 8, 4)]
    ours = [model.step({name: array[rows] for name, array in data.arrays().items()}) for rows in batches]
    theirs = [peer.step(torch.from_numpy(rows)) for rows in batches]
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert len({round(loss, 6) for loss in ours}) == SIDE_BY_SIDE
    assert sum(p.numel() for p in network.parameters()) == sum(a.size for n, a in model.parameters.items() if "running_" not in n)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_spec_and_the_table_agree(name):
    workload = WORKLOADS[name]
    from nnc.compiler.pipeline import analyse, read

    train = analyse(read(workload.spec), root=None).train
    assert (train.batch, train.optimizer.name, train.optimizer.params.lr) == (workload.batch, workload.optimizer, workload.rate)
    assert train.shuffle
    assert train.precision == "float32"
    assert workload.samples % workload.batch == 0


def test_every_contestant_has_a_module_and_takes_something():
    for contestant in CONTESTANTS.values():
        assert (COMPARE / f"{contestant.module}.py").is_file()
        assert any(contestant.takes(workload) for workload in WORKLOADS.values())


# The arithmetic

def line(contestant, epoch, first=1.0, **more):
    return {"contestant": contestant, "workload": "mlp-s", "epoch": epoch, "steps": 10, "samples": 100, "first_epoch": first, "memory": 2**20, **more}


def test_a_summary_takes_medians_and_the_fastest_peer():
    lines = [line("nnc", e) for e in (0.9, 0.5, 0.4)] + [line("a", e, f) for e, f in ((1.0, 9), (2.0, 3), (0.9, 5))] + [line("b", 1.5)]
    lines += [line("nnc", 1.0, workload="lstm"), line("b", 0.5, workload="lstm")]
    found = summarise(lines, [{"workload": "mlp-s", "step": 0.01, "flops": 10**9}], ["nnc"])
    small = found["workloads"]["mlp-s"]
    assert small["fastest_peer"] == "a"
    assert small["ratios"] == {"nnc": pytest.approx(2.0)}
    assert small["figures"]["nnc"]["microseconds_per_step"] == pytest.approx(50_000)
    assert (small["figures"]["a"]["first_epoch_cold"], small["figures"]["a"]["first_epoch_warm"]) == (9, 4)
    assert small["products"]["gigaflops"] == pytest.approx(100)
    assert found["geometric_mean"]["nnc"] == pytest.approx(1.0)  # of 2 and 0.5
    assert "2.00" in tables(found)


def test_a_peer_rests_when_two_processes_have_shown_that_it_is_slow():
    lines = [{"contestant": name, "epoch": epoch} for name, epoch in (("quick", 1.0), ("slow", 2.5), ("near", 3.0), ("quick", 1.1), ("near", 1.9))]
    assert not outrun("slow", lines, 2.0)  # one process, with empty caches, shows nothing
    lines.append({"contestant": "slow", "epoch": 2.1})
    assert [outrun(name, lines, 2.0) for name in ("quick", "slow", "near", "absent")] == [False, True, False, False]
    assert not outrun("slow", lines, 2.2)


def test_the_products_are_those_of_a_step():
    calls, flops = products(Dense(name="", batch=4, samples=4, optimizer="sgd", sizes=(6, 5, 3)))
    shapes = [call().shape for call in calls]
    assert shapes == [(4, 5), (6, 5), (4, 3), (5, 3), (4, 5)]
    assert flops == 2 * (4 * 6 * 5 * 2 + 4 * 5 * 3 * 3)
