"""torch + PEFT, on CUDA and on the CPU."""

from gswa.backends.torch.backend import TorchBackend

BACKEND = TorchBackend()
