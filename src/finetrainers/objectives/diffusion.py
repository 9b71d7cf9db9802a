"""A diffusion in discrete time steps, whose model answers v.

Shape letters as in ``finetrainers.batch``. [v] is Salimans and Ho 2022, arXiv:2202.00512; [CogVideoX] Yang et al. 2024,
arXiv:2408.06072.
"""

from dataclasses import dataclass

from torch import Tensor

from finetrainers.models.noise import timestep_of
from finetrainers.objectives.flow import FlowMatching, Noised


@dataclass(frozen=True, slots=True)
class Diffusion(FlowMatching):
    """A variance-preserving diffusion in discrete time steps, whose model answers v ([v] section 4, appendix D).

    CogVideoX weighs the error of the denoised latents by 1 / (1 - alpha_bar), which is the plain error of v:
    ``latents - (sqrt(alpha_bar) x - sqrt(1 - alpha_bar) v)`` is ``sqrt(1 - alpha_bar)`` times it ([CogVideoX] section 2.2).
    """

    alphas_cumprod: tuple[float, ...] = ()
    """alpha_bar of each time step, as the model's scheduler has them; the last is 0 with zero terminal SNR."""

    def corrupt(self, latents: Tensor, noise: Tensor, *, sigma: Tensor, loss_mask: Tensor | None) -> Noised:
        """Mix latents [B, C, F, H, W] with noise of the same shape, at the time steps of noise levels [B, F]."""
        alpha_bar = sigma.new_tensor(self.alphas_cumprod)[timestep_of(sigma, len(self.alphas_cumprod))]
        signal, spread = (root[:, None, :, None, None] for root in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))
        return Noised(
            x=signal * latents + spread * noise,
            sigma=sigma,
            target=signal * noise - spread * latents,
            loss_mask=loss_mask,
        )
