# %% [markdown]
# # Distil an image classifier
#
# The demo in pieces: a vision transformer on scikit-learn's handwritten digits, and a student with a tenth of its parameters. About half a minute.

# %%
import tempfile
from pathlib import Path

from potstill import DistillationPipeline
from potstill.demo import prepare_demo

folder = Path(tempfile.mkdtemp())
settings = prepare_demo(folder / "demo")
teacher, data = settings["teacher"].pop("model"), settings["data"]["source"]
print(teacher, data, sep="\n")

# %% [markdown]
# ## The run
#
# `epochs` are few here, so that the notebook is quick; `potstill demo` takes more.

# %%
config = {
    "ratio": 0.9,
    "teacher": settings["teacher"] | {"epochs": 3},
    "distill": {"epochs": 3},
    "quantize": "none",
    "evaluate": {"batch_sizes": [1], "repeats": 10},
}
result = DistillationPipeline(teacher, data, config, output_dir=folder / "out").run(observer=False)
result

# %%
print(f"the student keeps {result.retention:.1%} of the teacher's {result.metric}")
print(f"page: {result.paths['report']}")
