"""A loss that outliers bend less."""

from torch.nn.functional import huber_loss

from finetrainers import OwnObjective


class Huber(OwnObjective):
    """Squares small errors, and takes large ones as they are."""

    def losses(self, predict, batch):
        """Loss of each sample, shape [B], in float32."""
        noised = self.family.noised(batch)
        velocity = predict(noised.x, noised.sigma, batch).float()
        return self.family.mean(huber_loss(velocity, noised.target, reduction="none", delta=0.1), noised)
