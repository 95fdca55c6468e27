"""An NVIDIA GPU: ONNX Runtime with CUDA, in fp32 and fp16."""

from __future__ import annotations

from potstill.contracts.target import Target

PROVIDER = "CUDAExecutionProvider"


class NvidiaGpu(Target):
    """Measured where PyTorch sees such a GPU and ONNX Runtime can use it; elsewhere files are made and checked on the CPU."""

    name = "nvidia_gpu"
    title = "NVIDIA GPU"
    formats = ("onnx",)
    ways = ("fp32", "fp16")
    device = "cuda"

    def absent(self) -> str:
        """No GPU, or an ONNX Runtime without CUDA."""
        import torch

        if not torch.cuda.is_available():
            return "PyTorch sees no NVIDIA GPU on this machine; evaluate on one that has it"
        import onnxruntime

        if PROVIDER not in onnxruntime.get_available_providers():
            return "this ONNX Runtime has no CUDA; pip install onnxruntime-gpu"
        return ""

    def thread_counts(self) -> tuple[int, ...]:
        """One: the GPU computes, the CPU only starts its work."""
        return (1,)

    def describe(self) -> str:
        """The GPU's name."""
        import torch

        return torch.cuda.get_device_name()


NVIDIA_GPU = NvidiaGpu()
