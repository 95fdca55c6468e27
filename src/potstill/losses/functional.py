"""Every loss of the catalogue as a pure function: ``functional.<name>(student, teacher, …, reduction="mean")``."""

from __future__ import annotations

from potstill.losses.attention import at, attention_kl, tinybert_attention
from potstill.losses.batch_relation import cc, pkt, rkd_angle, rkd_distance, sp
from potstill.losses.consistency import cs_kd, probability_mse
from potstill.losses.contrast import crd, info_nce
from potstill.losses.distribution import ctkd, dist, logit_std_kl, mlkd, uld
from potstill.losses.divergences import jsd, kl, reverse_kl, skew_kl, skew_reverse_kl
from potstill.losses.embedding import output_cosine, similarity_kl
from potstill.losses.feature import cosine, cwd, embedding_mse, ghnd, hidden_mse, mgd, pkd
from potstill.losses.flow import fsp
from potstill.losses.graded import bce, bounded_regression, regression
from potstill.losses.gradient import jacobian
from potstill.losses.hints import ab, fitnet, ofd, vid
from potstill.losses.label_aware import dkd, label_smoothing_kd, nkd, probability_shift, tf_kd, wsld
from potstill.losses.minilm import minilm, minilm_v2
from potstill.losses.relation import affinity, gram, ickd, nst
from potstill.losses.response import ce, logit_mse, soft_ce, tvd
from potstill.losses.review import review_kd
from potstill.losses.routing import routed
from potstill.losses.self_supervision import sskd
from potstill.losses.singular import kd_svd
from potstill.losses.transfer import ft, pad, simkd, srd

__all__ = [
    "ab",
    "affinity",
    "at",
    "attention_kl",
    "bce",
    "bounded_regression",
    "cc",
    "ce",
    "cosine",
    "crd",
    "cs_kd",
    "ctkd",
    "cwd",
    "dist",
    "dkd",
    "embedding_mse",
    "fitnet",
    "fsp",
    "ft",
    "ghnd",
    "gram",
    "hidden_mse",
    "ickd",
    "info_nce",
    "jacobian",
    "jsd",
    "kd_svd",
    "kl",
    "label_smoothing_kd",
    "logit_mse",
    "logit_std_kl",
    "mgd",
    "minilm",
    "minilm_v2",
    "mlkd",
    "nkd",
    "nst",
    "ofd",
    "output_cosine",
    "pad",
    "pkd",
    "pkt",
    "probability_mse",
    "probability_shift",
    "regression",
    "reverse_kl",
    "review_kd",
    "rkd_angle",
    "rkd_distance",
    "routed",
    "similarity_kl",
    "simkd",
    "skew_kl",
    "skew_reverse_kl",
    "soft_ce",
    "sp",
    "srd",
    "sskd",
    "tf_kd",
    "tinybert_attention",
    "tvd",
    "uld",
    "vid",
    "wsld",
]
