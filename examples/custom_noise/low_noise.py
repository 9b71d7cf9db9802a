"""Low noise levels more often: details more than composition."""

from finetrainers import OwnObjective


class LowNoise(OwnObjective):
    """The distribution of ``objective.noise_levels``, its lower part more often."""

    def sigma(self, u, *, tokens):
        """Noise level of each sample, shape [B], from uniform draws u [B, 1]."""
        u = u.clone()
        u[:, 0] = u[:, 0] ** 2
        return self.family.sigma(u, tokens=tokens)

    def losses(self, predict, batch):
        """Loss of each sample, shape [B]: the usual one."""
        return self.family.losses(predict, batch)
