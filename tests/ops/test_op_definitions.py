"""What each op computes, against its definition written out naively."""

from __future__ import annotations

import math

import pytest
import pywt
import torch
import torch.nn.functional as F
from torch import Tensor

from foreblocks.darts.ops import build_op
from foreblocks.darts.ops.blocks import Dropout, FeatureDropout, SeriesDecomposition, odd_kernel
from foreblocks.darts.ops.decomposition import polynomial_basis, seasonal_basis
from foreblocks.darts.ops.spectral import fourier_basis


def make(name: str, dim: int, length: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_op(name, dim, length).eval()


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 6, 7, 24, 25, 96, 101])
def test_wavelet_bands_are_those_of_pywavelets_and_invert(length: int):
    op = make("Wavelet", 3, length)
    x = noise(2, length, 3)
    bands = op.analyse(x)
    # "constant" is the name there for repeated edges; the order there is from coarse to fine.
    expected = x
    for band in bands[:-1]:
        expected, detail = pywt.dwt(expected.numpy(), "db2", mode="constant", axis=1)
        expected = torch.from_numpy(expected)
        torch.testing.assert_close(band, torch.from_numpy(detail), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bands[-1], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(op.synthesise(bands), x, rtol=1e-5, atol=1e-5)


def test_wavelet_levels_grow_with_the_length():
    assert [make("Wavelet", 2, length).levels for length in (1, 5, 6, 12, 24, 500)] == [1, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("length", [1, 2, 7, 24, 96])
def test_fourier_basis_is_the_orthonormal_real_transform(length: int):
    x = noise(length, 3, dtype=torch.float64)
    forth, back = (matrix.double() for matrix in fourier_basis(length, torch.arange(length // 2 + 1)))
    spectrum = torch.fft.rfft(x, dim=0, norm="ortho")
    torch.testing.assert_close(forth @ x, torch.cat([spectrum.real, spectrum.imag]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(back @ forth @ x, x, rtol=1e-5, atol=1e-5)


def test_fourier_mixes_like_complex_numbers():
    op = make("Fourier", 4, 20)
    x = noise(2, 20, 4)
    spectrum = torch.fft.rfft(x, dim=1, norm="ortho") * torch.complex(op.filter_real, op.filter_imag)
    spectrum = spectrum @ torch.complex(*op.mix.weight.chunk(2)).T + torch.complex(op.bias_real, op.bias_imag)
    spectrum = torch.complex(F.gelu(spectrum.real), F.gelu(spectrum.imag))
    y = torch.fft.irfft(spectrum, n=20, dim=1, norm="ortho")
    torch.testing.assert_close(op(x), op.norm(x + torch.sigmoid(op.gate(x)) * y), rtol=1e-4, atol=1e-5)


def test_fourier_keeps_the_lowest_modes_only():
    assert make("Fourier", 4, 20).modes == 11
    assert make("Fourier", 4, 500).modes == 32


def test_timesnet_chooses_the_periods_of_each_sample():
    op = make("TimesNet", 4, 48)
    time = torch.arange(48.0)
    waves = [torch.cos(2 * math.pi * time / period) + 0.4 * torch.cos(2 * math.pi * time / other)
             for period, other in ((12, 24), (16, 6), (8, 4))]  # fmt: skip
    chosen, weights = op.select(torch.stack(waves).unsqueeze(-1).expand(-1, -1, 4))
    assert op.periods[chosen][:, :2].tolist() == [[12, 24], [16, 6], [8, 4]]
    assert (weights[:, 0] > weights[:, 1]).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))


@pytest.mark.parametrize("length", [1, 2, 5, 24, 31])
def test_timesnet_folds_and_convolves_in_two_dimensions(length: int):
    op = make("TimesNet", 8, length)
    x = noise(3, length, 8)
    chosen, weights = op.select(x)
    narrow = op.entry(x)
    kernel = op.fold.weight.view(2, 3, 3, 2).permute(0, 3, 1, 2)
    mixed = torch.zeros_like(narrow)
    for sample in range(3):
        for place in range(chosen.shape[1]):
            period = int(op.periods[chosen[sample, place]])
            rows = -(-length // period)
            padded = F.pad(narrow[sample], (0, 0, 0, rows * period - length))
            image = padded.view(1, rows, period, 2).permute(0, 3, 1, 2)
            folded = F.gelu(F.conv2d(image, kernel, op.fold.bias, padding=1))
            mixed[sample] += weights[sample, place] * folded.permute(0, 2, 3, 1).reshape(-1, 2)[:length]
    torch.testing.assert_close(op(x), op.norm(x + op.exit(mixed)), rtol=1e-4, atol=1e-5)


def test_timesnet_weights_have_a_gradient():
    op = make("TimesNet", 4, 24)
    x = noise(2, 24, 4).requires_grad_()
    (grad,) = torch.autograd.grad(op.select(x)[1][:, 0].sum(), x)
    assert grad.abs().max() > 1e-4


def test_dlinear_is_a_map_of_trend_and_a_map_of_remainder():
    op = make("DLinear", 4, 30)
    with torch.no_grad():
        for parameter in (op.trend, op.remainder, op.bias):
            parameter.normal_()
    x = noise(2, 30, 4)
    padded = torch.cat([x[:, :1].expand(-1, 12, -1), x, x[:, -1:].expand(-1, 12, -1)], dim=1)
    trend = padded.unfold(1, 25, 1).mean(dim=-1)
    y = torch.einsum("ot,ntd->nod", op.trend, trend) + torch.einsum("ot,ntd->nod", op.remainder, x - trend)
    torch.testing.assert_close(op(x), op.norm(x + y + op.bias[:, None]), rtol=1e-4, atol=1e-4)


def test_trend_of_a_constant_is_the_constant():
    remainder, trend = SeriesDecomposition(25)(torch.full((2, 40, 3), 7.0))
    assert remainder.abs().max() < 1e-5
    assert (trend - 7.0).abs().max() < 1e-5
    assert [odd_kernel(length) for length in (1, 2, 3, 24, 25, 26, 400)] == [1, 1, 3, 23, 25, 25, 25]


def test_multi_scale_conv_is_four_convolutions_under_a_gate():
    op = make("MultiScaleConv", 10, 12)
    x = noise(2, 12, 10)
    entry = op.entry(x)
    gate = torch.softmax(op.gate(x), dim=-1)
    parts = []
    sizes = [taps.shape for taps in op.taps]
    assert sizes == [(3, 1), (3, 3), (2, 5), (2, 7)]
    for scale, (taps, part) in enumerate(zip(op.taps, entry.split([3, 3, 2, 2], dim=-1), strict=True)):
        size, kernel = taps.shape
        y = F.conv1d(part.transpose(1, 2), taps[:, None], padding=kernel // 2, groups=size).transpose(1, 2)
        parts.append(F.gelu(y) * gate[..., scale : scale + 1] * 4)
    torch.testing.assert_close(op(x), op.norm(x + op.exit(torch.cat(parts, dim=-1))), rtol=1e-4, atol=1e-5)


def test_tcn_sees_fifteen_steps():
    op = make("TCN", 4, 40)
    x = noise(1, 40, 4).requires_grad_()
    (grad,) = torch.autograd.grad(op(x)[0, -1].sum(), x)
    assert grad[0, :-15].abs().max() == 0.0
    # Any single path may be cut by a ReLU; over all outputs the oldest step is seen by some.
    (grad,) = torch.autograd.grad((op(x)[0, 14:] * noise(26, 4)).sum(), x)
    assert grad[0, 0].abs().max() > 0.0


def test_patch_embed_embeds_overlapping_patches():
    op = make("PatchEmbed", 4, 40)
    x = noise(2, 40, 4)
    patches = x.unfold(1, 16, 8).permute(0, 1, 3, 2)  # [N, P, 16, D]
    weight = torch.cat([op.embed.weight[:4], op.embed.weight[4:]], dim=1)
    hidden = F.gelu(patches.flatten(2) @ weight.T + op.embed.bias[:4] + op.embed.bias[4:])
    hidden = op.features(hidden) + op.patches(hidden)
    spread = F.interpolate(hidden.transpose(1, 2), scale_factor=8, mode="linear").transpose(1, 2)
    # Centres of patches lie at 7.5, 15.5, ...: the interpolated steps start half a stride before the first.
    torch.testing.assert_close(op(x)[:, 4:36], op.norm(x[:, 4:36] + spread), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 15, 16, 17, 96])
def test_patch_interpolation_is_an_average(length: int):
    spread = make("PatchEmbed", 2, length).spread
    assert (spread >= 0).all()
    torch.testing.assert_close(spread.sum(dim=1), torch.ones(length))


def test_inverted_attention_takes_the_features_as_tokens():
    op = make("InvertedAttention", 6, 20)
    x = noise(2, 20, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(op(x[..., order]), op(x)[..., order], rtol=1e-4, atol=1e-5)
    tokens = x.transpose(1, 2)
    query, key, value = F.linear(tokens, op.project.weight, op.project.bias).chunk(3, dim=-1)
    attended = F.scaled_dot_product_attention(query, key, value)
    hidden = op.attention_norm(x + F.linear(attended, op.merge.weight, op.merge.bias).transpose(1, 2))
    inner = F.gelu(F.linear(hidden.transpose(1, 2), op.expand.weight, op.expand.bias))
    expected = op.norm(hidden + F.linear(inner, op.reduce.weight, op.reduce.bias).transpose(1, 2))
    torch.testing.assert_close(op(x), expected, rtol=1e-4, atol=1e-5)
    assert op.norm.weight is not op.attention_norm.weight


def test_nbeats_is_doubly_residual():
    op = make("NBeats", 3, 24)
    x = noise(2, 24, 3)
    residual, forecast = x, torch.zeros_like(x)
    for block in op.blocks:
        hidden = residual.transpose(1, 2)
        for layer in block.hidden:
            hidden = F.relu(F.linear(hidden, layer.weight, layer.bias))
        back, ahead = F.linear(hidden, block.theta.weight, block.theta.bias).chunk(2, dim=-1)
        residual = residual - (back @ block.basis.T).transpose(1, 2)
        forecast = forecast + (ahead @ block.basis.T).transpose(1, 2)
    torch.testing.assert_close(op(x), op.norm(residual + forecast), rtol=1e-4, atol=1e-4)


def test_nbeats_bases_hold_polynomials_and_harmonics():
    trend, season = polynomial_basis(30).double(), seasonal_basis(30).double()
    time = torch.linspace(0, 1, 30, dtype=torch.float64)
    signal = (1 - 2 * time + 3 * time**3)[:, None]
    torch.testing.assert_close(trend @ (trend.T @ signal) / 30, signal, rtol=1e-4, atol=1e-4)
    wave = torch.sin(2 * math.pi * 8 * torch.arange(30, dtype=torch.float64) / 30 + 0.3)[:, None]
    torch.testing.assert_close(season @ (season.T @ wave) / 30, wave, rtol=1e-4, atol=1e-4)
    assert polynomial_basis(2).shape == (2, 2)
    assert seasonal_basis(1).shape == (1, 2)


def test_time_mixer_has_three_scales():
    op = make("TimeMixer", 4, 23)
    assert [mix.enter.weight.shape[1] for mix in op.season_down] == [23, 12]
    assert [mix.leave.weight.shape[0] for mix in op.trend_up] == [23, 12]
    assert [split.kernel for split in op.split] == [23, 11, 5]
    assert len(make("TimeMixer", 4, 1).split) == 1


def test_grn_closes_its_gate():
    op = make("GRN", 4, 6)
    with torch.no_grad():
        op.gate.bias[4:] = -100.0
        op.gate.weight[4:] = 0.0
    x = noise(2, 6, 4)
    torch.testing.assert_close(op(x), op.norm(x))


def test_a_watched_block_of_tcn_is_called_and_the_result_stays():
    op = make("TCN", 6, 20).double()
    x = noise(2, 20, 6).double().requires_grad_()
    plain = op(x)
    seen = []
    handle = op.blocks[1].register_forward_hook(lambda _block, _inputs, output: seen.append(output))
    torch.testing.assert_close(op(x), plain)
    (gradient,) = torch.autograd.grad(op(x).square().sum(), x)
    handle.remove()
    assert [tuple(each.shape) for each in seen] == [(2, 20, 6)] * 2
    assert (seen[0] < 0).any()  # what the block itself returns, before its ReLU
    torch.testing.assert_close(torch.autograd.grad(op(x).square().sum(), x)[0], gradient)


def test_dropout_drops_whole_features_and_keeps_the_mean():
    torch.manual_seed(0)
    out = FeatureDropout(0.25)(torch.ones(200, 5, 20))
    assert torch.equal(out, out[:, :1].expand(-1, 5, -1))
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_single_elements_drop_at_the_rate_and_keep_the_mean(rate, dtype):
    torch.manual_seed(0)
    x = torch.ones(200, 37, 11, dtype=dtype, requires_grad=True)  # not a multiple of four
    out = Dropout(rate)(x)
    kept = out != 0
    assert abs(kept.double().mean().item() - (1 - rate)) < 5 * (rate * (1 - rate) / x.numel()) ** 0.5
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - rate)), rtol=1e-2, atol=0)
    assert out.double().mean().item() == pytest.approx(1.0, abs=0.05)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out)  # the mask and the scale, once more
    # Neighbours share a draw of the generator, and must not share their fate.
    flat = kept.flatten()[: 4 * (kept.numel() // 4)].view(-1, 4).double()
    assert (torch.corrcoef(flat.T) - torch.eye(4)).abs().max() < 0.035  # five standard errors


def test_dropout_of_elements_repeats_with_the_seed_and_rests_in_eval_mode():
    x = torch.randn(5, 3)
    torch.manual_seed(3)
    first = Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.5)(x), first)
    assert not torch.equal(Dropout(0.5)(x), first)
    for still in (Dropout(0.5).eval(), Dropout(0.0)):
        assert still(x) is x
    assert not Dropout(1.0)(x).any()
    assert Dropout(0.5)(x[:0]).shape == (0, 3)
