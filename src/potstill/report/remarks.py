"""Remarks that stages leave in English, in Chinese for the Chinese page."""

from __future__ import annotations

import re

from potstill.report.words import Said

# Pattern of a remark → its Chinese; groups keep their numbers. What no pattern fits is shown as it was written.
REMARKS: tuple[tuple[str, str], ...] = (
    # data
    (r"no (\w+) split was given: (\d+) of (\d+) training rows (?:is|are) held out for it \(stratified, seed (\d+)\)",
     r"未给出 \1 集：从 \3 条训练样本中分层留出 \2 条（种子 \4）"),
    (r"([\d,]+) training rows? (?:is|are) the (\w+) split", r"\2 集取自 \1 条训练样本"),
    (r"the (\w+) split is thinned out from (\d+) to ([\d,]+) rows? \(max_rows\)", r"\1 集由 \2 条抽取为 \3 条（max_rows）"),
    (r"split '(.+)' of the data is not used", r"未使用数据中的 \1 集"),
    (r"(.+) is not named as a split and is not used", r"\1 的名称不是数据集划分，未使用"),
    (r"([\d,]+) of ([\d,]+) training rows have no label and are used as unlabelled rows",
     r"\2 条训练样本中有 \1 条没有标签，作为无标注样本使用"),
    (r"([\d,]+) of ([\d,]+) rows of the (\w+) split ha(?:s|ve) no label and (?:is|are) left out",
     r"\3 集 \2 条样本中有 \1 条没有标签，已略去"),
    (r"the (\w+) split has no labels and is not used", r"\1 集没有标签，未使用"),
    (r"columns of the (\w+) split: (.+)", r"\1 集的列：\2"),
    (r"integer labels are read as positions in the teacher's labels: (.+)", r"整数标签按教师标签的位置读取：\1"),
    (r"label names of data and teacher differ in capital letters only and are taken as the same",
     r"数据与教师的标签名仅大小写不同，视为相同"),
    (r"labels of teacher and data were matched without regard to upper and lower case", r"教师与数据的标签按不区分大小写匹配"),
    (r"the teacher's classes have no names and are matched with the data's by position",
     r"教师的类别没有名称，按位置与数据的类别对应"),
    (r"the data's labels are numbers and are matched with the teacher's by position",
     r"数据的标签是数字，按位置与教师的类别对应"),
    (r"the teacher's labels have no names; those of the data are taken, in the data's order",
     r"教师的标签没有名称，按数据中的顺序采用数据的标签"),
    (r"empty words of the (\w+) split: (\d+), which have no token and no answer", r"\1 集有 \2 个空词，没有词元也没有答案"),
    (r"the teacher starts from random weights", r"教师从随机权重开始"),
    # plan
    (r"vocabulary ([\d,]+) → ([\d,]+), about (.+) of the data's token occurrences", r"词表 \1 → \2，约覆盖数据中 \3 的词元"),
    (r"embeddings of rank (\d+), projected to width (\d+)", r"秩为 \1 的词嵌入，投影到宽度 \2"),
    (r"embeddings of all (\d+) tokens put together from (\d+) × (\d+) pieces; the integers that choose them count as parameters",
     r"全部 \1 个词元的嵌入由 \2 × \3 个码字组合而成；选择码字的整数计入参数量"),
    # exports
    (r"(.+) is the fastest of ([\d,]+) candidates? within a drop of ([\d.]+)(.*)", r"\1 是 \2 个候选中下降不超过 \3 的最快者\4"),
    (r"(.+) is the smallest of ([\d,]+) candidates? within a drop of ([\d.]+)(.*)", r"\1 是 \2 个候选中下降不超过 \3 的最小者\4"),
    (r"(.+) is the smallest of those within 3 % of the fastest \((.+?)\)(.*)",
     r"\1 是与最快者（\2）相差 3 % 以内的候选中最小的\3"),
    (r"drop ([+-][\d.]+) is within ([\d.]+)", r"下降 \1，不超过 \2"),
    (r"drop ([+-][\d.]+) is over ([\d.]+)", r"下降 \1，超过 \2"),
    (r"left out: almost all weights stay in fp32 \(dynamic quantization does not reach convolutions\)",
     r"略去：几乎所有权重仍为 fp32（动态量化不作用于卷积）"),
    (r"failed: (.+)", r"失败：\1"),
    (r"this machine shows no energy counters \(common in virtual machines\)", r"本机没有能耗计数器（虚拟机中很常见）"),
    (r"the energy counters cannot be read: (.+)", r"无法读取能耗计数器：\1"),
    (r"not measured: (.+)", r"未测量：\1"),
    (r"the test split has ([\d,]+) rows? only: differences of a few points may be chance",
     r"测试集只有 \1 条样本：几个百分点的差异可能出于偶然"),
    (r"(.+) has no labels, so it is no test split(.*)", r"\1 没有标签，不能作为测试集\2"),
)  # fmt: skip
_PATTERNS = tuple((re.compile(pattern), chinese) for pattern, chinese in REMARKS)


def remark(text: str) -> Said:
    """A remark in both languages.

    Example:
        >>> remark("failed: no such operator").zh
        '失败：no such operator'
    """
    for pattern, chinese in _PATTERNS:
        if match := pattern.fullmatch(text.strip()):
            return Said(text, match.expand(chinese))
    return Said(text, text)
