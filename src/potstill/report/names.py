"""Names of figures, parts and logged series as a person reads them, in both languages."""

from __future__ import annotations

import re

from potstill.report.words import Said, same

_WORDS = {
    # logged series
    "loss": ("loss", "损失"),
    "kl": ("KL term", "KL 项"),
    "ce": ("cross-entropy with labels", "标签交叉熵"),
    "bce": ("binary cross-entropy", "二元交叉熵"),
    "regression": ("squared error", "平方误差"),
    "hidden_mse": ("hidden states, MSE", "隐藏状态 MSE"),
    "embedding_mse": ("embeddings, MSE", "嵌入 MSE"),
    "attention_mse": ("attention, MSE", "注意力 MSE"),
    "output_mse": ("answers, MSE", "输出 MSE"),
    "probability_mse": ("probabilities, MSE", "概率 MSE"),
    "output_cosine": ("cosine of answers", "输出余弦"),
    "similarity_kl": ("similarities of rows, KL", "样本相似度 KL"),
    "teacher_kl": ("KL to the teacher", "与教师的 KL"),
    "agreement": ("agreement with the teacher", "与教师的一致率"),
    "teacher_agreement": ("agreement with the teacher", "与教师的一致率"),
    "pretext_accuracy": ("accuracy of the pretext task", "前置任务准确率"),
    # measures
    "accuracy": ("accuracy", "准确率"),
    "subset_accuracy": ("subset accuracy", "子集准确率"),
    "top5_accuracy": ("top-5 accuracy", "Top-5 准确率"),
    "precision": ("precision", "精确率"),
    "recall": ("recall", "召回率"),
    "macro_f1": ("macro F1", "宏平均 F1"),
    "micro_f1": ("micro F1", "微平均 F1"),
    "weighted_f1": ("weighted F1", "加权 F1"),
    "f1": ("F1", "F1"),
    "mcc": ("MCC", "MCC"),
    "mse": ("MSE", "MSE"),
    "mae": ("MAE", "MAE"),
    "r2": ("R²", "R²"),
    "ece": ("ECE", "ECE"),
    "concordance": ("concordance", "一致性相关系数"),
    "pearson": ("Pearson correlation", "Pearson 相关系数"),
    "spearman": ("Spearman correlation", "Spearman 相关系数"),
    "teacher_pearson": ("Pearson correlation with the teacher", "与教师的 Pearson 相关系数"),
    "teacher_rmse": ("RMSE to the teacher", "与教师的 RMSE"),
    "teacher_cosine": ("cosine to the teacher", "与教师的余弦"),
    "same_neighbour": ("same nearest row as the teacher", "与教师最近邻相同"),
    "exact_match": ("exact match", "完全匹配"),
    "perplexity": ("perplexity", "困惑度"),
    "bits_per_byte": ("bits per byte", "每字节比特数"),
    # parts of a model
    "model_type": ("type", "类型"),
    "num_hidden_layers": ("layers", "层数"),
    "n_layers": ("layers", "层数"),
    "layers": ("layers", "层数"),
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
    "embedding": ("embedding", "嵌入"),
    # stages, and phases of training
    "data": ("data", "数据"),
    "teach": ("teach", "训练教师"),
    "augment": ("augment", "数据扩充"),
    "cache": ("cache", "缓存教师输出"),
    "score": ("score", "重要性评分"),
    "student": ("student", "裁剪学生"),
    "baseline": ("baseline", "训练基线"),
    "chain": ("chain", "逐级蒸馏"),
    "distill": ("distill", "蒸馏"),
    "export": ("export", "导出"),
    "evaluate": ("evaluate", "评测"),
    "report": ("report", "报告"),
    "copy": ("copy", "共用学生"),
    "prediction": ("prediction", "输出阶段"),
    "intermediate": ("intermediate", "中间层阶段"),
    "feature": ("feature", "特征阶段"),
    "labels": ("labels", "标签阶段"),
    "custom": ("custom", "自定义阶段"),
    # splits
    "train": ("train", "训练集"),
    "validation": ("validation", "验证集"),
    "test": ("test", "测试集"),
    "augmented": ("augmented", "扩充样本"),
    "unlabelled": ("unlabelled", "无标注样本"),
    # lengths
    "max": ("longest", "最长"),
}
_TASKS = {
    "text-classification": ("text classification", "文本分类"),
    "multi-label": ("multi-label text classification", "多标签文本分类"),
    "token-classification": ("token classification", "词元分类"),
    "regression": ("regression", "回归"),
    "sentence-embeddings": ("sentence embeddings", "句向量"),
    "question-answering": ("question answering", "抽取式问答"),
    "image-classification": ("image classification", "图像分类"),
    "image-multi-label": ("multi-label image classification", "多标签图像分类"),
    "image-regression": ("regression of images", "图像回归"),
    "causal-lm": ("language model", "语言模型"),
}
_PEER = re.compile(r"peer_(?P<number>\d+)_(?P<rest>.+)")
_START, _OF_LOSS = "eval_", ("loss/", "loss_")


def plain(key: str) -> str:
    """A key without what says where it was logged: ``eval_loss_kl`` and ``loss/kl`` are both ``kl``."""
    name = key.removeprefix(_START)
    for start in _OF_LOSS:
        name = name.removeprefix(start)
    return name


def measure_of(key: str) -> str:
    """The measure alone, without the task or the network that it is of."""
    name = plain(key).rpartition("/")[2]
    match = _PEER.fullmatch(name)
    return match["rest"] if match else name


def readable(key: str) -> Said:
    """The name of a figure, part or series; one that is not known is shown with spaces for underscores.

    Example:
        >>> readable("eval_macro_f1").en, readable("loss/kl").en, readable("eval_top_3").en, readable("mood/accuracy").zh
        ('macro F1', 'KL term', 'top 3', 'mood：准确率')
    """
    name = plain(key)
    if name in _WORDS:
        return Said(*_WORDS[name])
    if match := _PEER.fullmatch(name):
        rest = readable(match["rest"])
        return Said(f"network {match['number']}: {rest.en}", f"网络 {match['number']}：{rest.zh}")
    whose, is_of_task, last = name.rpartition("/")
    if is_of_task:
        own = readable(last)
        return Said(f"{whose}: {own.en}", f"{whose}：{own.zh}")
    return same(name.replace("_", " "))


def task_name(task: str) -> Said:
    """A task as a person reads it."""
    return Said(*_TASKS[task]) if task in _TASKS else same(task.replace("-", " "))


def phase_name(key: str) -> Said:
    """A stage of a run or a phase of training: ``"distill"``, ``"distill: prediction"``, ``"cache-topic"``.

    Example:
        >>> phase_name("distill: prediction").zh, phase_name("cache-2").zh
        ('蒸馏：输出阶段', '缓存教师输出 2')
    """
    stage, _, phase = key.partition(": ")
    if phase:
        first, second = phase_name(stage), readable(phase)
        return Said(f"{first.en}: {second.en}", f"{first.zh}：{second.zh}")
    name, _, of = stage.partition("-")
    return Said(f"{readable(name).en} {of}".strip(), f"{readable(name).zh} {of}".strip())


def layer_name(key: str) -> Said:
    """A layer of a model without the word that all of them share: ``hidden:3`` is 3."""
    return readable(key.removeprefix("hidden:"))
