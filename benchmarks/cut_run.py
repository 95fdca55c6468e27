"""A run up to its cut student: teacher, first weights of the student and rows, which is all that a comparison of training needs.

    python benchmarks/cut_run.py --teacher TEACHER_OR_ENCODER --data FOLDER --output out/cut

The teacher is trained first where its head is new. Called again with the same arguments it takes what lies there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

STAGES = ("data", "teach", "augment", "student")


def main() -> None:
    """Make it, and say what the student is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ratio", type=float, default=0.9)
    parser.add_argument(
        "--embeddings", default="table", help="table: of a type that transformers has; auto: coded where that keeps more"
    )
    arguments = parser.parse_args()
    flow = cut_run(arguments.output, arguments.teacher, arguments.data, ratio=arguments.ratio, embeddings=arguments.embeddings)
    plan = flow.open(flow.student_versions[0]).facts["plan"]
    print(f"{arguments.output}: {plan['model_type']} of {plan['parameters']:,} parameters, ratio {plan['ratio']:.3f}")


def cut_run(folder: Path, teacher: str, data: Path, *, ratio: float = 0.9, embeddings: str = "table") -> Any:
    """The stages that lead to a cut student, done once.

    Args:
        folder: Where they lie.
        teacher: Folder of a trained teacher, or of an encoder whose head is to be trained.
        data: Folder with train, validation and test files.
        ratio: Share of the teacher's parameters to remove.
        embeddings: "table" or "auto".
    """
    from potstill.flows.distill import DistillFlow
    from potstill.flows.folder import claim_folder
    from potstill.flows.observer import LoggingObserver
    from potstill.planning.check import check_recipe
    from potstill.recipe import make_recipe

    given = {
        "teacher": teacher,
        "data": {"source": str(data), "augment": "none"},
        "student": {"ratio": ratio, "embeddings": embeddings},
        "output": str(folder),
    }
    recipe = make_recipe(given)
    check_recipe(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    claim_folder(folder, recipe, overwrite=False)
    flow = DistillFlow(recipe)
    run = flow.start(folder, LoggingObserver())
    for stage in flow.stages:
        if stage.name in STAGES:
            run.perform(stage)
    return flow


def open_cut(folder: Path) -> Any:
    """The flow of a folder that `cut_run` or a whole run left; its teacher and cut student can be opened."""
    from potstill.flows.distill import DistillFlow
    from potstill.flows.observer import LoggingObserver
    from potstill.recipe import make_recipe, read_file

    if not (folder / "work/student/model/config.json").is_file():
        raise SystemExit(f"{folder} holds no cut student: give the folder of a run, or make one with benchmarks/cut_run.py")
    flow = DistillFlow(make_recipe(read_file(folder / "recipe.yaml"), {"output": str(folder)}))
    flow.start(folder, LoggingObserver())
    return flow


if __name__ == "__main__":
    main()
