"""ONNX's Fourier transforms, which audio classifiers begin with; complex numbers are pairs along the last axis."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlas.importers.onnx.operators.limits import bounded
from fedlas.importers.onnx.operators.table import operator


def _complex(x: Tensor) -> Tensor:
    """(…, 1) as real and (…, 2) as complex numbers."""
    return x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


@operator("DFT", host=(1, 2))
def fourier(
    x: Tensor,
    length: Tensor | None = None,
    axis_input: Tensor | None = None,
    *,
    axis: int | None = None,
    inverse: int = 0,
    onesided: int = 0,
    opset: int,
) -> Tensor:
    """Along one axis: an attribute (default 1) below opset 20, then an input (default the signal's last)."""
    default = 1 if opset < 20 else x.ndim - 2
    dim = default if axis is None else axis
    dim = (dim if axis_input is None else int(axis_input)) % x.ndim
    count = None if length is None else bounded([int(length)])[0]
    signal = _complex(x)
    if onesided and inverse:
        real: Tensor = torch.fft.irfft(signal, count, dim)
        return real.unsqueeze(-1)
    if onesided:
        return torch.view_as_real(torch.fft.rfft(signal, count, dim))
    transform = torch.fft.ifft if inverse else torch.fft.fft
    return torch.view_as_real(transform(signal, count, dim))


@operator("STFT", host=(1, 3))
def short_time_fourier(
    x: Tensor,
    frame_step: Tensor,
    window: Tensor | None = None,
    frame_length: Tensor | None = None,
    *,
    onesided: int = 1,
) -> Tensor:
    """(N, L, 1 or 2) → (N, frames, frequencies, 2); what does not fill a frame at the end is left out."""
    length = len(window) if window is not None else x.shape[1] if frame_length is None else int(frame_length)
    frames = _complex(x).unfold(1, length, int(frame_step))
    frames = frames if window is None else frames * window
    one = onesided and not frames.is_complex()
    return torch.view_as_real(torch.fft.rfft(frames) if one else torch.fft.fft(frames))
