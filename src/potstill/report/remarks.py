"""Remarks that stages leave in English, in Chinese: sentences with places for values, which are read back out of the text."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from string import Formatter

from potstill.report.names import readable
from potstill.report.words import Said

# English with places → Chinese with the same places, or fewer. The first that fits is taken.
REMARKS: dict[str, str] = {
    # data
    "no {split} split was given: {rows} of {all} training rows {are} held out for it (stratified, seed {seed})":
        "未给出{split}：从 {all} 条训练样本中分层留出 {rows} 条（种子 {seed}）",
    "{rows} training {noun} {are} the {split} split": "从训练样本中留出 {rows} 条作为{split}",
    "{rows} of the training rows are the {split} split": "从训练样本中留出 {rows} 条作为{split}",
    "the {split} split is thinned out from {all} to {rows} {noun} (max_rows)": "{split}由 {all} 条抽取为 {rows} 条（max_rows）",
    "{rows} of {all} rows of the {split} split also {occur} in training (leak)":
        "{split} {all} 条样本中有 {rows} 条也出现在训练集中（数据泄漏）",
    "split {name} of the data is not used": "未使用数据中的划分 {name}",
    "{name} is not named as a split and is not used": "{name} 的名称不是数据集划分，未使用",
    "{name} is a second folder for the {split} split and is not used": "{name} 是{split}的第二个文件夹，未使用",
    "{rows} of {all} training rows have no label and are used as unlabelled rows":
        "{all} 条训练样本中有 {rows} 条没有标签，作为无标注样本使用",
    "{rows} of {all} rows of the {split} split have no label and are left out":
        "{split} {all} 条样本中有 {rows} 条没有标签，已略去",
    "the {split} split has no labels and is not used": "{split}没有标签，未使用",
    "{name}: the rows for the {split} split have no labels, so they are no {again} split; rows carved out of the "
    "training rows are used instead. For predictions: {command}":
        "{name}：给{split}的样本没有标签，因此不能作为{split}；改用从训练样本中留出的样本。如需预测：{command}",
    "columns of the {split} split: {columns}": "{split}的列：{columns}",
    "integer labels are read as positions in the teacher's labels: {labels}": "整数标签按教师标签的位置读取：{labels}",
    "label names of data and teacher differ in capital letters only and are taken as the same":
        "数据与教师的标签名仅大小写不同，视为相同",
    "labels of teacher and data were matched without regard to upper and lower case": "教师与数据的标签按不区分大小写匹配",
    "the teacher's classes have no names and are matched with the data's by position":
        "教师的类别没有名称，按位置与数据的类别对应",
    "the data's labels are numbers and are matched with the teacher's by position": "数据的标签是数字，按位置与教师的类别对应",
    "the teacher's labels have no names; those of the data are taken, in the data's order":
        "教师的标签没有名称，按数据中的顺序采用数据的标签",
    "the teacher's classes were brought into the order of the data's": "教师的类别已按数据的类别顺序排列",
    "the teacher has no head for this task yet; it is trained on the data first": "教师还没有此任务的输出层，先在数据上训练",
    "config.json promises a head, but the weights have none": "config.json 声明有输出层，但权重中没有",
    "the teacher starts from random weights": "教师从随机权重开始",
    "texts unlike the training texts become about {times} times as long in its tokens":
        "与训练文本不同的文本，用学生的词元表示时长度约为 {times} 倍",
    "vocabulary {before} → {after}, {share} of the token occurrences in the training texts":
        "词表 {before} → {after}，覆盖训练文本中 {share} 的词元",
    "layers {before} → {after}": "层 {before} → {after}",
    "width {before} → {after}": "宽度 {before} → {after}",
    "key-value heads {before} → {after}": "键值头 {before} → {after}",
    "FFN neurons {before} → {after}": "前馈神经元 {before} → {after}",
    "classes {start} to {stop}": "类别 {start} 至 {stop}",
    "{count} of {all} texts of the {split} split {are} empty; {they} {are_again} kept":
        "{split} {all} 条文本中有 {count} 条为空，保留",
    "{count} of {all} texts of the {split} split {are} longer than {limit} tokens; {they} {are_again} read in "
    "{parts} overlapping segments, whose answers are averaged":
        "{split} {all} 条文本中有 {count} 条超过 {limit} 个词元，分为 {parts} 个重叠片段读取，输出取平均",
    "{count} of {all} texts {are} longer than {limit} tokens and {were} cut":
        "{all} 条文本中有 {count} 条超过 {limit} 个词元，已截断",
    "{count} of {all} contexts of the {split} split {are} read in overlapping windows of {limit} tokens":
        "{split} {all} 条上下文中有 {count} 条以 {limit} 个词元的重叠窗口读取",
    "{count} {questions} of the {split} split {are} longer than half a window and {were} cut":
        "{split}有 {count} 个问题超过半个窗口，已截断",
    "{count} {words} of contexts {lie} beyond {limit} tokens, or {have} no token, and no answer is there in these "
    "windows":
        "上下文中有 {count} 个词位于 {limit} 个词元之外或没有词元，这些窗口中它们不作为答案",
    "{count} of {all} words {lie} beyond {limit} tokens, or {have} no token, and are not answered":
        "{all} 个词中有 {count} 个位于 {limit} 个词元之外或没有词元，不作预测",
    "empty words of the {split} split: {count}, which have no token and no answer":
        "{split}有 {count} 个空词，没有词元也没有答案",
    "{count} {images} of the {split} split cannot be read and {are} left out: {names}":
        "{split}有 {count} 张图像无法读取，已略去：{names}",
    "{split}: {cut} of {all} rows are longer than {limit} tokens and are cut, {out} are left out because no answer "
    "is within them":
        "{split}：{all} 条样本中有 {cut} 条超过 {limit} 个词元并被截断，{out} 条因其中没有答案而略去",
    # student
    "vocabulary {all} → {tokens}, about {share} of the data's token occurrences":
        "词表 {all} → {tokens}，约覆盖数据中 {share} 的词元",
    "{tokens} tokens cover {share} of the training text": "{tokens} 个词元覆盖训练文本的 {share}",
    "vocabulary of {tokens} tokens covers {share} of the training text; unseen text becomes {times} times as long":
        "{tokens} 个词元的词表覆盖训练文本的 {share}；未见文本的长度变为 {times} 倍",
    "embeddings of rank {rank}, projected to width {width}": "秩为 {rank} 的词嵌入，投影到宽度 {width}",
    "embeddings of all {tokens} tokens put together from {groups} × {codes} pieces; the integers that {choose} them "
    "count as parameters":
        "全部 {tokens} 个词元的嵌入由 {groups} × {codes} 个码字组合而成；选择码字的整数计入参数量",
    "ratio {asked} was asked; the nearest {kind} gives {ratio}": "要求的压缩率为 {asked}；最接近的结构达到 {ratio}",
    "a {kind} student: its embeddings start from the teacher's, the rest is new":
        "{kind} 学生：词嵌入由教师初始化，其余为新权重",
    "a {kind} student: nothing of the teacher fits into it, its weights are new":
        "{kind} 学生：教师的权重都不适用，全部为新权重",
    "attention of student layer {student} differs from teacher layer {teacher} by {value} nats (above {limit})":
        "学生第 {student} 层的注意力与教师第 {teacher} 层相差 {value} nats（超过 {limit}）",
    # exports
    "{reason}; speeds were not measured: {absent}": "{reason}；未测量速度：{absent}",
    "{reason}; {count} lost more": "{reason}；另有 {count} 个候选下降更多",
    "{reason}: p50 {time} ms with {threads} {noun}, drop {loss}": "{reason}：p50 {time} ms（{threads} 线程），下降 {loss}",
    "{reason}: drop {loss}": "{reason}：下降 {loss}",
    "{way} is the fastest of {count} {candidates} within a drop of {drop}":
        "{way} 是下降不超过 {drop} 的 {count} 个候选中最快的",
    "{way} is the smallest of {count} {candidates} within a drop of {drop}":
        "{way} 是下降不超过 {drop} 的 {count} 个候选中最小的",
    "{way} is the smallest of those within 3 % of the fastest ({other})":
        "{way} 是与最快者（{other}）相差 3 % 以内的候选中最小的",
    "no candidate stays within a drop of {drop}; {way} has the least drop, {least}":
        "没有候选的下降不超过 {drop}；{way} 的下降最小，为 {least}",
    "drop {loss} is within {drop}": "下降 {loss}，不超过 {drop}",
    "drop {loss} is over {drop}": "下降 {loss}，超过 {drop}",
    "left out: almost all weights stay in fp32 (dynamic quantization does not reach convolutions)":
        "略去：几乎所有权重仍为 fp32（动态量化不作用于卷积）",
    "a teacher of more than {size} GB is not made as {way}": "教师超过 {size} GB，不以 {way} 方式制作",
    "{way} failed on the teacher: {error}": "{way} 用于教师时失败：{error}",
    "failed: {error}": "失败：{error}",
    "cosine {value}": "余弦 {value}",
    # machine
    "this machine shows no energy counters (common in virtual machines)": "本机没有能耗计数器（虚拟机中很常见）",
    "the energy counters cannot be read: {error}": "无法读取能耗计数器：{error}",
    "not measured: {absent}": "未测量：{absent}",
    "PyTorch sees no NVIDIA GPU on this machine; evaluate on one that has it":
        "PyTorch 在本机上没有找到 NVIDIA GPU；请在有 GPU 的机器上评测",
    "this ONNX Runtime has no CUDA; pip install onnxruntime-gpu":
        "此 ONNX Runtime 不带 CUDA；请执行 pip install onnxruntime-gpu",
    "the test split has {rows} {noun} only: differences of a few points may be chance":
        "测试集只有 {rows} 条样本：几个百分点的差异可能出于偶然",
    "times were measured on different machines: {machines}": "耗时在不同的机器上测得：{machines}",
    "students are served in different ways: {ways}": "学生的部署形式不同：{ways}",
}  # fmt: skip
OF_TASK = re.compile(r"(?P<task>[^\s:]+): (?P<rest>.+)", re.DOTALL)


def remark(text: str) -> Said:
    """A remark in both languages; one that no sentence fits is the same in both.

    Example:
        >>> remark("3 of 9 rows of the test split also occur in training (leak)").zh
        '测试集 9 条样本中有 3 条也出现在训练集中（数据泄漏）'
    """
    text = text.strip()
    for pattern, chinese in _patterns():
        if match := pattern.fullmatch(text):
            found = {name: _FIELDS.get(name, str)(value) for name, value in match.groupdict().items()}
            return Said(text, chinese.format(**found))
    if match := OF_TASK.fullmatch(text):
        rest = remark(match["rest"])
        return Said(text, text if rest.zh == rest.en else f"{match['task']}：{rest.zh}")
    return Said(text, text)


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(_pattern(english), re.DOTALL), chinese) for english, chinese in REMARKS.items())


def _pattern(english: str) -> str:
    parts = Formatter().parse(english)
    return "".join(re.escape(before) + ("" if name is None else f"(?P<{name}>.+?)") for before, name, _, _ in parts)


_FIELDS: dict[str, Callable[[str], str]] = {
    "split": lambda value: readable(value).zh,
    "reason": lambda value: remark(value).zh,
    "absent": lambda value: remark(value).zh,
    "name": lambda value: {"the data": "数据"}.get(value, value),
    "columns": lambda value: value.replace(" from ", " 取自 ").replace(", ", "，"),
}
