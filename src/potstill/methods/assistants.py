"""Teacher assistants: models between teacher and student in size, each taught by the one before, as a plan."""

from __future__ import annotations

import math

from potstill.errors import RecipeError

LARGEST_STEP = 4.0


def plan_chain(
    student_parameters: int, teacher_parameters: int, *, count: int | None = None, largest_step: float = LARGEST_STEP
) -> dict[str, int]:
    """A chain from teacher to student whose sizes fall by equal factors.

    Size of link i of n: teacher · (student / teacher)^(i / n).
    *Source*: Mirzadeh et al. 2020, teacher assistants (https://arxiv.org/abs/1902.03393), which finds longer chains better;
    equal factors and the number of assistants are ours.

    Args:
        student_parameters: Size of the student.
        teacher_parameters: Size of the teacher.
        count: Assistants between them; None for as few as keep every step at `largest_step` or below.
        largest_step: Largest factor from one model to the next.

    Returns:
        Name → size: "assistant-1", "assistant-2" … in order, then "student".

    Raises:
        RecipeError: The student is not the smaller one, a negative count, or a step that does not shrink.

    Example:
        >>> plan_chain(1_000, 16_000)
        {'assistant-1': 4000, 'student': 1000}
    """
    if not 0 < student_parameters < teacher_parameters:
        raise RecipeError(
            f"a chain goes from {teacher_parameters:,} to {student_parameters:,} parameters",
            "a student of at least one parameter that is smaller than the teacher",
            "ask for a higher ratio",
        )
    if count is not None and count < 0:
        raise RecipeError(f"{count} assistants are asked for", "0 or more", "leave the number out")
    if not largest_step > 1:
        raise RecipeError(f"the largest step is {largest_step}", "a factor above 1", f"set it to {LARGEST_STEP}")
    factor = teacher_parameters / student_parameters
    steps = max(1, math.ceil(math.log(factor) / math.log(largest_step) - 1e-9)) if count is None else count + 1
    sizes = {f"assistant-{step}": round(teacher_parameters * factor ** (-step / steps)) for step in range(1, steps)}
    return {**sizes, "student": student_parameters}
