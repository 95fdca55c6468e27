"""Feature, attention, relation, contrast and gradient losses equal slow versions written from their papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.errors import RecipeError
from potstill.losses import catalogue, row_products
from potstill.losses import functional as F
from potstill.losses.contract import Shapes, StudentView
from potstill.losses.relation import cross_square, distance_of_grams

B, T, D, H = 3, 4, 5, 2


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(value: Tensor, expected: float | Tensor) -> None:
    assert float(value) == pytest.approx(float(expected), rel=1e-8, abs=1e-10)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


def real_tokens() -> list[list[int]]:
    return [[t for t in range(T) if MASK[b, t]] for b in range(B)]


def test_token_features_with_mask() -> None:
    s, t = values(B, T, D), values(B, T, D, seed=1)
    mse = cos = gram = whole = 0.0
    for b, tokens in enumerate(real_tokens()):
        mse += sum(((s[b, i] - t[b, i]) ** 2).mean() for i in tokens) / len(tokens)
        cos += sum(1 - unit(s[b, i]) @ unit(t[b, i]) for i in tokens) / len(tokens)
        whole += sum(((s[b, i] - t[b, i]) ** 2).sum() for i in tokens)
        pairs = [(i, j) for i in tokens for j in tokens]
        gram += sum((unit(s[b, i]) @ unit(s[b, j]) - unit(t[b, i]) @ unit(t[b, j])) ** 2 for i, j in pairs) / len(pairs)
    for name in ("hidden_mse", "embedding_mse", "fitnet", "simkd", "mgd"):
        check(getattr(F, name)(s, t, mask=MASK), mse / B)
    check(F.cosine(s, t, mask=MASK), cos / B)
    check(F.ghnd(s, t, mask=MASK), whole / B)
    check(F.gram(s, t, mask=MASK), gram / B)
    check(F.pkd(s, t), sum(((unit(s[b, 0]) - unit(t[b, 0])) ** 2).sum() for b in range(B)) / B)


def test_map_features_are_means_over_positions() -> None:
    s, t = values(B, D, 2, 3), values(B, D, 2, 3, seed=1)
    tokens = [value.flatten(2).transpose(1, 2) for value in (s, t)]
    for name in ("hidden_mse", "cosine", "ghnd", "gram", "cwd", "at", "affinity", "nst", "ickd"):
        check(getattr(F, name)(s, t), getattr(F, name)(*tokens))


def test_attention_transfer_and_channel_wise() -> None:
    s, t = values(B, D, 2, 3), values(B, D, 2, 3, seed=1)
    at = cwd = 0.0
    for b in range(B):
        maps = [
            unit(torch.stack([value[b, :, i, j].abs().square().sum() for i in range(2) for j in range(3)])) for value in (s, t)
        ]
        at += ((maps[0] - maps[1]) ** 2).mean()
        for c in range(D):
            q, p = (torch.softmax(value[b, c].flatten() / 4, 0) for value in (s, t))
            cwd += 16 * (p * (p / q).log()).sum() / D
    check(F.at(s, t), at / B)
    check(F.cwd(s, t), cwd / B)


def test_attention_scores() -> None:
    s, t = values(B, H, T, T), values(B, H, T, T, seed=1)
    v_s, v_t = values(B, H, T, 3, seed=2), values(B, H, T, 6, seed=3)
    mse = kl = relation = 0.0
    for b, tokens in enumerate(real_tokens()):
        mse += sum((s[b, h, i, j] - t[b, h, i, j]) ** 2 for h in range(H) for i in tokens for j in tokens) / (
            H * len(tokens) ** 2
        )
        for h in range(H):
            for i in tokens:
                kl += row_kl(t[b, h, i, tokens], s[b, h, i, tokens]) / (H * len(tokens))
                theirs, own = v_t[b, h, tokens] @ v_t[b, h, i] / math.sqrt(6), v_s[b, h, tokens] @ v_s[b, h, i] / math.sqrt(3)
                relation += row_kl(theirs, own) / (H * len(tokens))
    check(F.tinybert_attention(s, t, mask=MASK), mse / B)
    check(F.attention_kl(s, t, mask=MASK), kl / B)
    check(F.minilm(s, t, v_s, v_t, mask=MASK), (kl + relation) / B)


def row_kl(teacher: Tensor, student: Tensor) -> Tensor:
    p, q = torch.softmax(teacher, 0), torch.softmax(student, 0)
    return (p * (p / q).log()).sum()


def test_minilm_v2_splits_heads_anew() -> None:
    s, t = values(B, 2, T, 6), values(B, 3, T, 8, seed=1)
    expected = 0.0
    for b in range(B):
        own, theirs = s[b].transpose(0, 1).reshape(T, 12), t[b].transpose(0, 1).reshape(T, 24)
        for r in range(4):
            a, c = own[:, 3 * r : 3 * r + 3], theirs[:, 6 * r : 6 * r + 6]
            for i in range(T):
                expected += row_kl(c @ c[i] / math.sqrt(6), a @ a[i] / math.sqrt(3)) / (4 * T)
    check(F.minilm_v2(s, t, relation_heads=4), expected / B)


def test_attention_of_other_head_numbers_is_the_mean_distribution() -> None:
    s, t = values(B, 2, T, T), values(B, 3, T, T, seed=1)
    p, q = torch.softmax(t, -1).mean(1), torch.softmax(s, -1).mean(1)
    check(F.attention_kl(s, t, average_heads=True), (p * (p / q).log()).sum(-1).mean())


def test_hints() -> None:
    s, t, variance = values(B, D), values(B, D, seed=1), values(D, seed=2).exp()
    margin = -values(D, seed=3).abs()
    ab = ofd = vid = 0.0
    for b in range(B):
        for d in range(D):
            a, c = float(s[b, d]), float(t[b, d])
            ab += max(0, 1 - a) ** 2 if c > 0 else max(0, 1 + a) ** 2
            target = max(c, float(margin[d]))
            ofd += 0 if a <= target <= 0 else (a - target) ** 2
            vid += 0.5 * (math.log(variance[d]) + (c - a) ** 2 / float(variance[d]))
    check(F.ab(s, t), ab / (B * D))
    check(F.ofd(s, t, margin=margin), ofd / (B * D))
    check(F.vid(s, t, variance), vid / (B * D))


def test_transfers() -> None:
    s, t, log_variance = values(B, D), values(B, D, seed=1), values(B, D, seed=2)
    check(F.ft(s, t), sum((unit(s[b]) - unit(t[b])).abs().mean() for b in range(B)) / B)
    prime = sum((s[b, d] - t[b, d]) ** 2 / math.exp(log_variance[b, d]) + log_variance[b, d] for b in range(B) for d in range(D))
    check(F.pad(s, t, log_variance), prime / (B * D))
    check(F.srd(s, t), math.log(sum(abs(float(s[b, d] - t[b, d])) ** 4 for b in range(B) for d in range(D))))


def test_hierarchical_context() -> None:
    s, t = values(B, D, 8, 8), values(B, D, 8, 8, seed=1)
    expected, weights = 0.0, {8: 1.0, 4: 0.5, 2: 0.25, 1: 0.125}
    for size, weight in weights.items():
        step = 8 // size
        for i in range(size):
            for j in range(size):
                cell = (slice(None), slice(None), slice(i * step, (i + 1) * step), slice(j * step, (j + 1) * step))
                difference = s[cell].mean((2, 3)) - t[cell].mean((2, 3))
                expected += weight * float((difference**2).mean()) / size**2
    full = float(((s - t) ** 2).mean())
    first = sum(float((s[:, :, i, j] - t[:, :, i, j]).square().mean()) for i in range(8) for j in range(8)) / 64
    assert first == pytest.approx(full)
    check(F.review_kd(s, t), expected / sum(weights.values()))


def test_relations_between_rows() -> None:
    s, t = values(5, D), values(5, D + 2, seed=1)
    matrices = []
    for rows in (s, t):
        n = len(rows)
        distance = torch.stack([torch.stack([(rows[i] - rows[j]).norm() for j in range(n)]) for i in range(n)])
        distance = distance / (distance.sum() / (n * (n - 1)))
        angle = torch.zeros(n, n, n, dtype=torch.float64)
        for j in range(n):
            for i in range(n):
                for k in range(n):
                    if j not in (i, k):
                        angle[j, i, k] = unit(rows[i] - rows[j]) @ unit(rows[k] - rows[j])
        gram = torch.stack([unit(torch.stack([rows[i] @ rows[j] for j in range(n)])) for i in range(n)])
        cosine = torch.stack([torch.stack([unit(rows[i]) @ unit(rows[j]) for j in range(n)]) for i in range(n)])
        kernel = sum(math.exp(-0.8) * 0.8**p / math.factorial(p) * cosine**p for p in range(3))
        similarity = (cosine + 1) / 2
        matrices.append((distance, angle, gram, kernel, similarity / similarity.sum(1, keepdim=True)))
    own, theirs = matrices
    check(F.rkd_distance(s, t), huber(own[0] - theirs[0]))
    check(F.rkd_angle(s, t), huber(own[1] - theirs[1]))
    check(F.sp(s, t), ((own[2] - theirs[2]) ** 2).mean())
    check(F.cc(s, t), ((own[3] - theirs[3]) ** 2).mean())
    assert float(F.pkt(s, t)) == pytest.approx(float((theirs[4] * (theirs[4] / own[4]).log()).mean()), abs=1e-6)


def huber(difference: Tensor) -> Tensor:
    size = difference.abs()
    return torch.where(size < 1, 0.5 * size**2, size - 0.5).mean()


def test_relations_within_rows() -> None:
    s, t = values(B, T, D), values(B, T, D + 2, seed=1)
    affinity = nst = 0.0
    for b in range(B):
        a, c = (torch.stack([unit(row) for row in value[b]]) for value in (s, t))
        affinity += (a @ a.T - c @ c.T).norm() / T
        x, y = ([unit(value[b, :, d]) for d in range(value.shape[2])] for value in (s, t))
        nst += mean_kernel(y, y) + mean_kernel(x, x) - 2 * mean_kernel(x, y)
    check(F.affinity(s, t), affinity / B)
    check(F.nst(s, t), nst / B)


def mean_kernel(first: list[Tensor], second: list[Tensor]) -> Tensor:
    return sum((a @ b) ** 2 for a in first for b in second) / (len(first) * len(second))


def test_relations_between_channels() -> None:
    s, t = values(B, T, D), values(B, T, D, seed=1)
    affinity = 0.0
    for b in range(B):
        x, y = (torch.stack([unit(value[b, :, d]) for d in range(D)]) for value in (s, t))
        outer = sum((torch.outer(x[d], x[d]) - torch.outer(y[d], y[d])).norm() / T for d in range(D))
        affinity += outer / D
    check(F.affinity(s, t, over="channels"), affinity / B)


@pytest.mark.parametrize("grid", [(1, 2), (5, 5)])  # fewer positions than channels, and more
def test_correlation_of_channels_as_the_authors_compute_it(grid: tuple[int, int]) -> None:
    s, t = values(2, 4, *grid).requires_grad_(), values(2, 4, *grid, seed=1)
    slow = 0.0
    for b in range(2):
        rows = [[torch.stack([(own * other).sum() for other in value[b]]) for own in value[b]] for value in (s, t)]
        slow += sum((own / own.norm() - other / other.norm()).square().sum() for own, other in zip(*rows)) / 4
    check(F.ickd(s.detach(), t), slow.detach() / 2)
    gradients = [torch.autograd.grad(value, s)[0] for value in (F.ickd(s, t), slow / 2)]
    assert torch.allclose(*gradients, atol=1e-6)
    louder = s.detach() * torch.linspace(0.2, 5.0, 4).to(s.dtype).view(1, 4, 1, 1)
    assert float(F.ickd(louder, s.detach())) > 1e-3  # what a channel's size says of its correlations is seen


@pytest.mark.parametrize("grid", [(8, 8), (7, 7), (6, 4), (2, 2)])
def test_review_pools_each_map_from_its_own_grid(grid: tuple[int, int]) -> None:
    s, t = values(2, 3, *grid), values(2, 3, *grid, seed=1)
    expected, weights = (s - t).square().mean(), 1.0
    for n, size in enumerate(size for size in (4, 2, 1) if size < grid[0]):
        pooled = [torch.nn.functional.adaptive_avg_pool2d(value, size) for value in (s, t)]
        expected, weights = expected + 0.5 ** (n + 1) * (pooled[0] - pooled[1]).square().mean(), weights + 0.5 ** (n + 1)
    check(F.review_kd(s, t), expected / weights)


def test_review_gates_equal_a_convolution_of_joined_maps() -> None:
    from potstill.losses.review import AttentionFusion

    fusion = AttentionFusion(3, 4, 5, is_deepest=False).double()
    fused, deeper = values(2, 4, 6, 6), values(2, 4, 3, 3, seed=1)
    grown = torch.nn.functional.interpolate(deeper, (6, 6), mode="nearest")
    assert torch.allclose(torch.cat(fusion.gates(fused, deeper), 1), fusion.attention(torch.cat([fused, grown], 1)))


def test_review_of_stages_and_their_mean_by_hand() -> None:
    from potstill.losses.review import ReviewKD

    torch.manual_seed(0)
    loss = ReviewKD(layers=((1, 1), (2, 2)), middle_channels=4)
    own = {"hidden:1": values(B, 3, 8, 8).float(), "hidden:2": values(B, 5, 4, 4, seed=1).float()}
    theirs = {"hidden:1": values(B, 6, 4, 4, seed=2).float(), "hidden:2": values(B, 7, 4, 4, seed=3).float()}
    shapes = [Shapes({name: tuple(value.shape) for name, value in taps.items()}, (B, 2)) for taps in (own, theirs)]
    loss.prepare(shapes[0], shapes[1], num_rows=B)
    loss.eval()
    found = loss(StudentView(torch.zeros(B, 2), own), TeacherSignal(None, theirs), {})
    shallow, deep, pooled = loss.bridges
    assert pooled.attention is None
    last = pooled.inner(own["hidden:2"].mean((2, 3), keepdim=True))
    total = F.review_kd(pooled.outer(last), theirs["hidden:2"].mean((2, 3), keepdim=True), reduction="sum")
    for fusion, own_map, their_map in (
        (deep, own["hidden:2"], theirs["hidden:2"]),
        (shallow, own["hidden:1"], theirs["hidden:1"]),
    ):
        inner = fusion.inner(own_map)
        last = torch.nn.functional.interpolate(last, inner.shape[-2:], mode="nearest")
        gates = fusion.attention(torch.cat([inner, last], 1))
        last = inner * gates[:, :1] + last * gates[:, 1:]
        last = torch.nn.functional.interpolate(last, their_map.shape[-2:], mode="nearest")
        total = total + F.review_kd(fusion.outer(last), their_map, reduction="sum")
    check(found.sum, total / 3)


@pytest.mark.parametrize("shape", [(B, 40, 6), (B, 6, 40), (B, 8, 8)])
def test_products_over_positions_equal_those_over_channels(shape: tuple[int, int, int]) -> None:
    s, t = values(*shape), values(*shape, seed=1)
    grams = [value @ value.transpose(1, 2) for value in (s, t)]
    assert torch.allclose(distance_of_grams(s, t), (grams[0] - grams[1]).square().sum((1, 2)), rtol=1e-9)
    assert torch.allclose(cross_square(s, t), (s.transpose(1, 2) @ t).square().sum((1, 2)), rtol=1e-9)


@pytest.mark.parametrize(("first", "second"), [(3, 5), (30, 40)])
def test_flows(first: int, second: int) -> None:
    features = [values(B, width, size, size, seed=size + n) for n in (0, 9) for width, size in ((first, 4), (second, 2))]
    flows = []
    for shallow, deep in (features[:2], features[2:]):
        pooled = shallow.reshape(B, first, 2, 2, 2, 2).mean((3, 5))
        flow = torch.zeros(B, first, second, dtype=torch.float64)
        for i in range(2):
            for j in range(2):
                flow += pooled[:, :, i, j, None] * deep[:, None, :, i, j] / 4
        flows.append(flow)
    check(F.fsp(*features), ((flows[0] - flows[1]) ** 2).mean())


@pytest.mark.parametrize("width", [3, 30])
def test_flow_of_tokens_leaves_pads_out(width: int) -> None:
    features = [values(B, T, width, seed=n) for n in range(4)]
    expected = 0.0
    for b, tokens in enumerate(real_tokens()):
        s1, s2, t1, t2 = (feature[b, tokens] for feature in features)
        expected += ((s1.T @ s2 - t1.T @ t2) / len(tokens)).square().mean()
    check(F.fsp(*features, mask=MASK), expected / B)


def aligned_vectors(student: torch.Tensor, teacher: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[C, k] of both sides for one row, by full decompositions and a search of the nearest direction."""
    _, s, v = torch.linalg.svd(teacher, full_matrices=False)
    theirs = v[:count].T * torch.sign(v[:count].sum(1))
    shares = s[:count] / s[:count].norm()
    own = torch.linalg.svd(student, full_matrices=False)[2][: count + 3].T
    columns = []
    for k in range(theirs.shape[1]):
        cosines = [float((own[:, j] @ theirs[:, k]).detach()) for j in range(own.shape[1])]
        best = max(range(len(cosines)), key=lambda j: abs(cosines[j]))
        columns.append(own[:, best] * math.copysign(1.0, cosines[best]))
    return torch.stack(columns, -1) * shares, theirs * shares


@pytest.mark.parametrize(("num_vectors", "shape"), [(1, (7, 5)), (2, (7, 5)), (1, (4, 9)), (2, (4, 9))])
def test_singular_relation_and_its_gradient(num_vectors: int, shape: tuple[int, int]) -> None:
    features = [values(3, *shape, seed=n) for n in range(4)]
    features[0].requires_grad_()
    features[1].requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(3):
        first, second = (aligned_vectors(features[n][b], features[n + 2][b], num_vectors) for n in range(2))
        for i in range(shape[1]):
            for j in range(shape[1]):
                relations = [torch.exp(-(one[i] - other[j]).square().sum() / 8) for one, other in zip(first, second)]
                expected = expected + (relations[0] - relations[1]) ** 2 / shape[1] ** 2
    expected, found = expected / 3, F.kd_svd(*features, num_vectors=num_vectors)
    check(found.detach(), expected.detach())
    gradients = [torch.autograd.grad(value, features[:2], retain_graph=True) for value in (found, expected)]
    for own, other in zip(*gradients):
        assert torch.allclose(own, other, rtol=1e-6, atol=1e-12)


def test_singular_directions_may_change_places() -> None:
    left, right = (torch.linalg.qr(values(6, 6, seed=seed))[0] for seed in (1, 2))
    orders = [torch.tensor(scales, dtype=torch.float64).diag() for scales in ([5.0, 4, 1, 1, 1, 1], [4.0, 5, 1, 1, 1, 1])]
    teacher, student = ((left @ scales @ right).unsqueeze(0) for scales in orders)
    other = values(1, 6, 6, seed=3)
    assert float(F.kd_svd(student, other, teacher, other)) < 1e-12
    assert float(F.kd_svd(values(1, 6, 6, seed=4), other, teacher, other)) > 1e-5


@pytest.mark.parametrize("order", [1, 2, 4])
def test_congruence_gradient_of_both_sides(order: int) -> None:
    s, t = values(B, D).requires_grad_(), values(B, D + 2, seed=1).requires_grad_()
    kernels = []
    for rows in (s, t):
        similarity = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T
        kernels.append(sum(math.exp(-0.6) * 0.6**p / math.factorial(p) * similarity**p for p in range(order + 1)))
    expected, found = (kernels[0] - kernels[1]).square().mean(), F.cc(s, t, gamma=0.3, order=order)
    check(found.detach(), expected.detach())
    alone = torch.autograd.grad(F.cc(s, t.detach(), gamma=0.3, order=order), s)[0]
    for own, other in zip(*(torch.autograd.grad(value, (s, t)) for value in (found, expected))):
        assert torch.allclose(own, other, atol=1e-12)
    assert torch.allclose(alone, torch.autograd.grad(F.cc(s, t, gamma=0.3, order=order), s)[0], atol=1e-14)
    assert torch.autograd.gradcheck(lambda *rows: F.cc(*rows, gamma=0.3, order=order), (s, t))


def test_angles_gradient_of_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows near two lines in different orders, so that cosines differ by less and by more than one; two vertices at a time."""
    monkeypatch.setattr(row_products, "ANGLES", 2 * 5**2)
    s, t = values(5, D), values(5, D + 2, seed=1)
    s[:, 0] += torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0])
    t[:, 0] += torch.tensor([4.0, 0.0, 6.0, 2.0, 8.0])
    s.requires_grad_(), t.requires_grad_()
    angles = []
    for rows in (s, t):
        sides = torch.nn.functional.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
        angles.append(sides @ sides.transpose(1, 2))
    apart = (angles[0] - angles[1]).abs()
    assert 0.1 < float((apart > 1).double().mean()) < 0.9
    expected, found = torch.nn.functional.smooth_l1_loss(*angles), F.rkd_angle(s, t)
    check(found.detach(), expected.detach())
    for own, other in zip(*(torch.autograd.grad(value, (s, t)) for value in (found, expected))):
        assert torch.allclose(own, other, rtol=1e-7, atol=1e-12)
    assert torch.autograd.gradcheck(F.rkd_angle, (s, t))


def test_angles_with_equal_rows() -> None:
    s, t = values(4, D), values(4, D, seed=1).requires_grad_()
    s[1] = s[0]
    s.requires_grad_()
    F.rkd_angle(s, t).backward()
    for side in (s, t):
        assert side.grad is not None
        assert bool(side.grad.isfinite().all())


@pytest.mark.parametrize("name", ["sp", "pkt", "rkd_distance"])
def test_gradient_of_products_of_rows(name: str) -> None:
    s, t = values(4, D).requires_grad_(), values(4, D + 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(getattr(F, name), (s, t))
    assert torch.autograd.gradgradcheck(getattr(F, name), (s, t))


def test_congruence_of_a_row_of_zeros_is_finite() -> None:
    s, t = values(B, D), values(B, D, seed=1)
    s[0] = 0
    s.requires_grad_()
    F.cc(s, t).backward()
    assert s.grad is not None
    assert bool(s.grad.isfinite().all())


def test_contrast() -> None:
    s, t = values(B, D), values(B, D, seed=1)
    nce = 0.0
    for i in range(B):
        scores = [math.exp(unit(s[i]) @ unit(t[j]) / 0.07) for j in range(B)]
        nce += -math.log(scores[i] / sum(scores))
    check(F.info_nce(s, t), nce / B)
    positive, negative = values(B, seed=2), values(B, 6, seed=3)
    noise, crd = 6 / 100, 0.0
    for i in range(B):
        x = math.exp(positive[i])
        crd -= math.log(x / (x + noise))
        crd -= sum(math.log(noise / (math.exp(negative[i, k]) + noise)) for k in range(6))
    check(F.crd(positive, negative, num_rows=100), crd / B)


def test_gradient_directions() -> None:
    s, t = values(B, T, D), values(B, T, D, seed=1)
    expected = sum(((unit(s[b].flatten()) - unit(t[b].flatten())) ** 2).sum() for b in range(B))
    check(F.jacobian(s, t), expected / B)
    wide = values(B, T, D + 3, seed=2)
    lengths = sum(((unit(s[b].norm(dim=-1)) - unit(wide[b].norm(dim=-1))) ** 2).sum() for b in range(B))
    check(F.jacobian(s, wide), lengths / B)


def test_hidden_mse_in_units_of_each_pair() -> None:
    views = [[values(B, D, seed=seed) for seed in pair] for pair in ((0, 1), (2, 3))]
    names = [("mean:1", "mean:2"), ("mean:2", "mean:6")]
    student = StudentView(values(B, 2), {own: one for (own, _), (one, _) in zip(names, views)})
    teacher = TeacherSignal(taps={other: two for (_, other), (_, two) in zip(names, views)})
    loss = catalogue.build("hidden_mse", layers=names, scale=[0.5, 4.0])
    loss.prepare(*(Shapes(dict.fromkeys(needs, (B, D)), (B, 2)) for needs in zip(*names)), num_rows=B)
    found = loss(student, teacher, {"row_id": torch.arange(B)})
    expected = sum(((s - t) ** 2).mean(1).sum() / unit for (s, t), unit in zip(views, (0.5, 4.0))) / 2
    check(found.sum, expected)
    for wrong in ([1.0], [1.0, 0.0], [1.0, float("nan")], 2.0):
        with pytest.raises(RecipeError, match="scale"):
            catalogue.build("hidden_mse", layers=names, scale=wrong)
