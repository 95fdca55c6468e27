"""Methods that teach blocks, by hidden states and attention."""

from __future__ import annotations

from potstill.methods.contract import MethodOptions, ModelFacts, Phase, TermSpec, require_taps, with_wishes
from potstill.methods.layers import last_pair, pair_layers
from potstill.methods.needs import matched_pairs, require_attention, require_positions, require_tokens
from potstill.methods.response import response_terms


def tinybert(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """First the blocks (embedding, hidden states, attention scores; weight 1 each), then the prediction (KL at τ = 1).

    Source: Jiao et al. 2020, TinyBERT (arXiv 1909.10351), section 3.2 and the settings of its task-specific distillation
    (20 epochs, then 3). The paper sums over blocks, losses are means over their pairs, hence weights of the number of pairs.
    Where rows have labels and `alpha` is given, the second phase learns from them too.
    """
    pairs = matched_pairs("tinybert", student, teacher, options)
    require_attention("tinybert", student, teacher)
    terms = [
        TermSpec("embedding_mse"),
        TermSpec("hidden_mse", 1.0 * len(pairs), options={"layers": pairs}),
        TermSpec("tinybert_attention", 1.0 * len(pairs), options={"layers": pairs}),
    ]
    prediction = response_terms(options, temperature=1.0, alpha=1.0)
    last = tuple(term for term in prediction if term.weight != 0)
    phases = [
        Phase("intermediate", tuple(terms), epochs=20.0, learning_rate=5e-5, select="last"),
        Phase("prediction", last, epochs=3.0, learning_rate=3e-5),
    ]
    return with_wishes(phases, options)


def pkd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Patient distillation: KL and labels, and the [CLS] states of skipped blocks.

    Source: Sun et al. 2019, BERT-PKD (arXiv 1908.09355): τ from {5, 10, 20}, α from {0.2, 0.5, 0.7}, β from {10, 100, 500}; the
    middle ones are taken. Eq. 7 sums squares over the width, the authors' code, to which these β belong, takes their mean: the
    weight of the sum is β / width.
    """
    require_taps("pkd", options, compares_tokens=False)
    require_tokens("pkd", student, teacher)
    pairs = pair_layers("skip" if options.layers == "auto" else options.layers, student, teacher)
    terms = (
        *response_terms(options, temperature=10.0, alpha=0.5),
        TermSpec("pkd", 100.0 / teacher.width, options={"layers": pairs}),
    )
    return with_wishes([Phase("prediction", terms, epochs=4.0, learning_rate=5e-5)], options)


def minilm(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """First the self-attention of the last block (queries with keys, values with values), then the prediction.

    Source: Wang et al. 2020, MiniLM (arXiv 2002.10957), which has the first phase on a large corpus; here on the task's rows.
    """
    pairs = last_pair(options, student, teacher)
    require_positions("minilm", student, teacher, options, pairs)
    require_attention("minilm", student, teacher)
    name = "minilm" if student.heads == teacher.heads else "minilm_v2"
    phases = [
        Phase("intermediate", (TermSpec(name, options={"layers": pairs}),), epochs=10.0, learning_rate=5e-4, select="last"),
        Phase("prediction", response_terms(options, temperature=2.0, alpha=0.7), epochs=4.0, learning_rate=5e-5),
    ]
    return with_wishes(phases, options)
