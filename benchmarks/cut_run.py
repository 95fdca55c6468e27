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
    run = cut_run(arguments.output, arguments.teacher, arguments.data, ratio=arguments.ratio, embeddings=arguments.embeddings)
    plan = run.facts("work/student")["plan"]
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
    from potstill.flows.distill import stages_for
    from potstill.flows.pipeline import claim_folder
    from potstill.planning.check import check_recipe
    from potstill.recipe import make_recipe
    from potstill.stages.context import Run
    from potstill.stages.observer import LoggingObserver
    from potstill.stages.stage import perform

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
    run = Run(recipe, folder, LoggingObserver())
    for stage in stages_for(recipe):
        if stage.name in STAGES:
            run.results[stage.name] = perform(stage, run, replace=True)
    return run


def open_cut(folder: Path) -> Any:
    """A folder that `cut_run` or a whole run left, as a run."""
    from potstill.recipe import make_recipe, read_file
    from potstill.stages.context import Run
    from potstill.stages.observer import LoggingObserver

    if not (folder / "work/student/model/config.json").is_file():
        raise SystemExit(f"{folder} holds no cut student: give the folder of a run, or make one with benchmarks/cut_run.py")
    recipe = make_recipe(read_file(folder / "recipe.yaml"), {"output": str(folder)})
    return Run(recipe, folder, LoggingObserver())


if __name__ == "__main__":
    main()
