"""A whole run on CIFAR-10 with a small residual network as teacher, trained here from random weights.

    python benchmarks/images.py --rows 10000 --ratios 0.9

Reads POTSTILL_DATA/cifar10 (default ../shared/data). The protocol is reduced so that it ends within half an hour on two cores:
a subset of the training rows and few epochs; accuracies are far from what the full protocol reaches, and said so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from quality import DATA, figures, print_table, run


def main() -> None:
    """Train the teacher once, then one student for each ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each split, at most")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.9])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--teacher-epochs", type=float, default=12)
    parser.add_argument("--output", type=Path, default=Path("out/images"))
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="further recipe keys, key=value")
    arguments = parser.parse_args()
    data = DATA / "cifar10"
    if not data.exists():
        sys.exit(f"{data} does not exist: set POTSTILL_DATA to the folder that holds the data sets")
    scratch = [f"data.max_rows={arguments.rows}"]
    rows = []
    for seed in arguments.seeds:
        teacher, extra = (
            str(write_teacher(arguments.output / "teacher-config")),
            [
                "teacher.from_scratch=true",
                f"teacher.epochs={arguments.teacher_epochs}",
                "teacher.batch_size=64",
            ],
        )
        for ratio in arguments.ratios:
            folder = arguments.output / f"cifar10-seed{seed}-ratio{ratio}"
            arguments.settings = [*scratch, *extra, *arguments.settings]
            metrics = run(arguments, data, teacher, ratio, seed, folder)
            rows.append(figures(metrics, ratio, seed, sum(value or 0.0 for value in metrics.stages.values())))
            teacher, extra = str(folder / "teacher"), []
    print_table(rows)


def write_teacher(folder: Path) -> Path:
    """A residual network of 2.8 million parameters for pictures of 32 × 32, as a configuration."""
    from transformers import ResNetConfig, ViTImageProcessor

    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 2, 2], layer_type="basic", num_channels=3
    )
    config.architectures = ["ResNetForImageClassification"]
    config.save_pretrained(folder)
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.49, 0.48, 0.45], image_std=[0.25, 0.24, 0.26])
    processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
