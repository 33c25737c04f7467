"""The files' proof: how near each comes to JAX, and how fast it answers."""

import numpy as np
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter

from export.verify import ACTION_TOLERANCE, DISTANCE_TOLERANCE
from pipelines.report import wording
from pipelines.report.drawing import MUTED, SERIES, plot
from pipelines.report.findings import Findings
from pipelines.report.markup import Html, table

BINS = 40
SMALLEST_ERROR = 1e-9  # drawn; smaller ones, and none at all, stand there
SLOWEST = 1.5  # times the 99th percentile; slower answers stand there


def parity(findings: Findings) -> Html | None:
    """How near each file comes to JAX, beside what is allowed."""
    exported = findings.summary.get("export")
    if not exported:
        return None
    (absolute, _), (floor, relative) = ACTION_TOLERANCE, DISTANCE_TOLERANCE
    head = ["size", "observations", "actions: largest error", "distance: largest error"]
    rows = [
        [
            size,
            wording.count(file.get("observations")),
            wording.error(file.get("parity_max_error")),
            wording.error(file.get("distance_max_error")),
        ]
        for size, file in exported.items()
    ]
    return table(
        "ONNX Runtime against JAX, on observations of the students' own episodes. Allowed: "
        f"{absolute:g} for an action's entry, {floor:g} + {relative:g} \u00b7 d for a distance d",
        head,
        rows,
    )


def proof_histograms(findings: Findings) -> list[Html]:
    """Errors and latency of the selected file over the observations that proved it."""
    drawn: list[Html] = []
    errors, latency = (findings.proof.get(name) for name in ("action_error", "latency_us"))
    size, allowed = findings.selected, ACTION_TOLERANCE[0]
    if errors is not None and len(errors):
        with plot(f"Largest error of an action of {size}, observations", drawn) as axes:
            seen = np.maximum(errors, SMALLEST_ERROR)  # a logarithmic axis has no zero
            ends = SMALLEST_ERROR, max(2 * allowed, seen.max())
            axes.hist(seen, bins=np.geomspace(*ends, BINS), color=SERIES[0])
            axes.axvline(allowed, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="allowed")
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
    if latency is not None and len(latency):
        with plot(f"Latency of {size}, \u00b5s, observations", drawn) as axes:
            slow = float(np.percentile(latency, 99))
            axes.hist(np.minimum(latency, SLOWEST * slow), bins=BINS, color=SERIES[0])
            for rank, label, dashes in ((50, "median", "-"), (99, "p99", (0, (4, 3)))):
                at = float(np.percentile(latency, rank))
                axes.axvline(at, color=MUTED, linewidth=1, linestyle=dashes, label=label)
            axes.set_xlim(left=0)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
            axes.yaxis.set_minor_formatter(NullFormatter())
    return drawn
