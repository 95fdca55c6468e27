"""Losses as pure functions, in any training loop: logits in, one number out.

python examples/losses.py
"""

from __future__ import annotations

import torch

from potstill.losses import functional


def main() -> None:
    """Compare three ways of learning from the same teacher, and step once with a mixture."""
    torch.manual_seed(0)
    teacher_logits = 3 * torch.randn(8, 5)
    labels = teacher_logits.argmax(dim=1)
    student_logits = torch.randn(8, 5, requires_grad=True)

    print(f"KL, temperature 2   {functional.kl(student_logits, teacher_logits, temperature=2.0).item():.4f} nats")
    print(f"reverse KL          {functional.reverse_kl(student_logits, teacher_logits).item():.4f} nats")
    print(f"squared logits      {functional.logit_mse(student_logits, teacher_logits).item():.4f}")

    loss = 0.7 * functional.kl(student_logits, teacher_logits, temperature=2.0) + 0.3 * functional.ce(student_logits, labels)
    loss.backward()
    assert student_logits.grad is not None
    print(f"mixture             {loss.item():.4f}, gradient norm {student_logits.grad.norm().item():.4f}")


if __name__ == "__main__":
    main()
