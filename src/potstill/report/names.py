"""Names of figures, parts and logged series as a person reads them, in both languages."""

from __future__ import annotations

from potstill.report.words import Said

_WORDS = {
    # logged series
    "loss": ("loss", "损失"),
    "kl": ("KL to the teacher", "与教师的 KL"),
    "teacher_kl": ("KL to the teacher", "与教师的 KL"),
    "ce": ("cross-entropy with labels", "标签交叉熵"),
    "hidden_mse": ("hidden states, MSE", "隐藏状态 MSE"),
    "agreement": ("agreement with the teacher", "与教师的一致率"),
    "teacher_agreement": ("agreement with the teacher", "与教师的一致率"),
    # measures
    "accuracy": ("accuracy", "准确率"),
    "macro_f1": ("macro F1", "宏平均 F1"),
    "micro_f1": ("micro F1", "微平均 F1"),
    "f1": ("F1", "F1"),
    "mcc": ("MCC", "MCC"),
    "mse": ("MSE", "MSE"),
    "mae": ("MAE", "MAE"),
    "r2": ("R²", "R²"),
    "exact_match": ("exact match", "完全匹配"),
    "perplexity": ("perplexity", "困惑度"),
    "bits_per_byte": ("bits per byte", "每字节比特数"),
    # parts of a model
    "model_type": ("type", "类型"),
    "num_hidden_layers": ("layers", "层数"),
    "n_layers": ("layers", "层数"),
    "depths": ("blocks per stage", "各阶段块数"),
    "hidden_size": ("width", "宽度"),
    "dim": ("width", "宽度"),
    "hidden_sizes": ("channels per stage", "各阶段通道数"),
    "embedding_size": ("embedding width", "词嵌入宽度"),
    "num_attention_heads": ("attention heads", "注意力头数"),
    "n_heads": ("attention heads", "注意力头数"),
    "num_key_value_heads": ("key-value heads", "键值头数"),
    "intermediate_size": ("feed-forward neurons", "前馈神经元数"),
    "hidden_dim": ("feed-forward neurons", "前馈神经元数"),
    "vocab_size": ("vocabulary", "词表大小"),
    "image_size": ("image size", "图像大小"),
    "patch_size": ("patch size", "图块大小"),
}
_START, _OF_LOSS = "eval_", ("loss/", "loss_")


def plain(key: str) -> str:
    """A key without what says where it was logged: ``eval_loss_kl`` and ``loss/kl`` are both ``kl``."""
    name = key.removeprefix(_START)
    for start in _OF_LOSS:
        name = name.removeprefix(start)
    return name


def readable(key: str) -> Said:
    """The name of a figure, part or series; one that is not known is shown with spaces for underscores.

    Example:
        >>> readable("eval_macro_f1").en, readable("loss/kl").en, readable("eval_top_3").en
        ('macro F1', 'KL to the teacher', 'top 3')
    """
    name = plain(key)
    found = _WORDS.get(name)
    text = name.replace("_", " ").replace("/", ": ")
    return Said(*found) if found else Said(text, text)
