"""The graph that leaves the house: raw columns in, preprocessing, network, outputs in the column's units, decisions decoded.

The NumPy runtime runs it for `nnc predict` and as the reference of every export; onnx_export.py writes it down.
"""

from __future__ import annotations

from collections.abc import Sequence

from .diagnostics import Findings
from .ir import Graph, Value, origin, substitute
from .lower import lower
from .objective import pairs
from .passes import optimised
from .prepare import decision, prepare
from .program import Program


def serving_graph(program: Program, outputs: Sequence[str] = (), *, decisions: bool = False, dtype: str = "float32") -> Graph:
    """Outputs by name: `outputs`, or the export section's, or all; with `decisions` the decision on every target beside them.

    An output paired with a numeric target comes in the units of the target's column.
    """
    experiment = program.experiment
    forward = lower(experiment.network, Findings(experiment.source), training=False, dtype=dtype)
    paired = pairs(program.train) if program.train else []
    prepared = {}
    if experiment.data is not None:
        used = {*forward.inputs, *(target for _, target in paired)}
        for name, entry in experiment.data.names.items():
            if name in used:
                prepared[name] = prepare(experiment.data, entry, dtype, program.learned)
    replace: dict[Value, Value] = {forward.inputs[name]: prepared[name].column.value for name in forward.inputs if name in prepared}
    predictions = dict(zip(forward.outputs, substitute(list(forward.outputs.values()), replace), strict=True))
    found: dict[str, Value] = {}
    chosen = list(outputs) or [r.name for r in experiment.export.params.outputs] or list(predictions)
    if decisions:
        chosen = list(dict.fromkeys([*chosen, *(t for _, t in paired if t in prepared and prepared[t].column.classes is not None)]))
    for name in chosen:
        if name in predictions:
            inverse = next((prepared[t].inverse for p, t in paired if p == name and t in prepared), None)
            found[name] = inverse(predictions[name]) if inverse is not None else predictions[name]
        else:
            prediction = next(p for p, t in paired if t == name)
            target = prepared.get(name)
            with origin(f"decision/{name}"):
                if target is not None and target.column.classes is not None:
                    found[name] = decision(predictions[prediction], target.column)
                elif target is not None and target.inverse is not None:
                    found[name] = target.inverse(predictions[prediction])
                else:
                    found[name] = predictions[prediction]
    return optimised(Graph(found), inference=True)
