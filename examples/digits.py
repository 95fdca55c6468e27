"""Distil a small vision transformer on scikit-learn's scanned digits, and print what was gained and lost.

python examples/digits.py            # about three minutes on two cores
python examples/digits.py out/small 0.95
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep; before torch is loaded

from rich.console import Console

from potstill import DistillationPipeline
from potstill.demo import prepare_demo
from potstill.report.table import summary_table


def main(output: str = "out/digits", ratio: str = "0.9") -> None:
    """Train the teacher, cut and teach the student, measure both."""
    settings = prepare_demo(output)
    teacher, data = settings["teacher"].pop("model"), settings["data"]["source"]
    config = {
        "teacher": settings["teacher"],
        "distill": settings["distill"],
        "compression_ratio": float(ratio),
        "hardware_target": "cpu",
        "quantization": "auto",
        "baseline": True,
    }
    metrics = DistillationPipeline(teacher_model=teacher, data=data, config=config, output_dir=output).run()
    Console().print(summary_table(metrics))
    print(f"the student keeps {metrics.retention:.1%} of the teacher's {metrics.metric}; page: {output}/report/index.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
