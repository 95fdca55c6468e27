"""Small models, tokenizers and batches that the student tests share."""

from __future__ import annotations

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from potstill.models.architectures import coded
from potstill.models.families import family_of

TEXT_TYPES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "potstill-encoder", "deberta-v2")
IMAGE_TYPES = ("vit", "deit", "resnet", "convnext", "mobilenet_v2")
CONVOLUTIONAL = ("resnet", "convnext", "mobilenet_v2")
ALL_TYPES = TEXT_TYPES + IMAGE_TYPES
DEBERTA_V3 = {  # what the configurations of microsoft/deberta-v3-* say
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "type_vocab_size": 0,
    "legacy": False,
}


def tiny_config(model_type: str, **changes):
    """A configuration small enough to run in milliseconds."""
    if model_type == "resnet":
        values = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "num_labels": 3}
    elif model_type == "convnext":
        values = {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2, "num_labels": 3, "layer_scale_init_value": 0.5}
    elif model_type == "mobilenet_v2":
        values = {"depth_multiplier": 0.35, "depth_divisible_by": 4, "min_depth": 4, "finegrained_output": False, "num_labels": 3}
    elif model_type == "distilbert":
        values = {"vocab_size": 120, "dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 4, "num_labels": 3}
        values["max_position_embeddings"] = 24
    else:
        values = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_labels": 3}
        if model_type in ("vit", "deit"):
            values |= {"image_size": 16, "patch_size": 8}
        else:
            values |= {"vocab_size": 120, "max_position_embeddings": 24}
        if model_type in ("electra", "potstill-encoder", "deberta-v2"):
            values["embedding_size"] = 32
        if model_type == "deberta-v2":
            values |= DEBERTA_V3 | {"position_buckets": 8}
        if model_type == "potstill-encoder":
            values |= {"head_dim": 8, "code_groups": 4, "codes_per_group": 48, "position_rank": 6}
    return AutoConfig.for_model(model_type, **(values | changes))


def model_class(model_type: str):
    """The class with a classification head."""
    name = family_of(model_type).architecture
    return getattr(coded, name, None) or getattr(transformers, name)


def tiny_model(model_type: str, seed: int = 0, **changes) -> PreTrainedModel:
    """A random model in eval mode whose norms, biases and statistics are not at their trivial defaults."""
    torch.manual_seed(seed)
    config = tiny_config(model_type, **changes)
    model = model_class(model_type)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
            if name.endswith("word_embeddings.codes"):
                buffer.copy_(torch.randint(48, buffer.shape) + 48 * torch.arange(buffer.shape[1]))
    return model.eval()


def tiny_batches(model_type: str, num_batches: int = 3, rows: int = 8, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Batches as a collator gives them: ragged and padded text, or images."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for number in range(num_batches):
        row_id = torch.arange(number * rows, (number + 1) * rows)
        labels = torch.randint(0, 3, (rows,), generator=generator)
        if model_type in IMAGE_TYPES:
            size = 32 if model_type in CONVOLUTIONAL else 16
            inputs = {"pixel_values": torch.randn(rows, 3, size, size, generator=generator)}
        else:
            ids = torch.randint(5, 120, (rows, 10), generator=generator)
            lengths = torch.randint(4, 11, (rows, 1), generator=generator)
            mask = (torch.arange(10) < lengths).long()
            pad = 1 if model_type in ("roberta", "xlm-roberta") else 0
            inputs = {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}
        batches.append(inputs | {"labels": labels, "row_id": row_id})
    return batches
