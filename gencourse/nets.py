"""The course's networks: dense and convolutional GAN pairs, a VAE, a classifier, and a layer.

Images are (B, C, H, W) in [-1, 1]; latents are (B, Z); a discriminator returns logits (B,).
"""

import json
import math
from pathlib import Path

import torch
from torch import nn

# size -> (side of the coarsest feature map, how many times it doubles)
SIZES = {16: (4, 2), 28: (7, 2), 32: (8, 2), 64: (8, 3)}


def pyramid(size):
    """How a supported image size is reached by doubling: (coarsest side, number of doublings).

    Raises: ValueError naming the sizes that are supported.
    """
    if size not in SIZES:
        raise ValueError(
            f"Size {size} is not supported; choose one of {', '.join(map(str, SIZES))} pixels."
        )
    return SIZES[size]


def dcgan_init(module):
    """Draw convolution and linear weights from N(0, 0.02²) and BatchNorm's scale from N(1, 0.02²).

    Use as `net.apply(dcgan_init)`. Source: Radford et al. 2016, arXiv:1511.06434, section 4.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class DenseGenerator(nn.Module):
    """Latent → image through fully connected layers with BatchNorm and ReLU, tanh at the end.

    image_shape: (C, H, W); z_dim: size of z; width: units of the first hidden layer, then doubled.
    """

    def __init__(self, image_shape, z_dim=64, width=256):
        super().__init__()
        self.image_shape, self.z_dim = tuple(image_shape), z_dim
        self.body = nn.Sequential(
            nn.Linear(z_dim, width, bias=False),  # BatchNorm's own bias follows
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, 2 * width, bias=False),
            nn.BatchNorm1d(2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, math.prod(image_shape)),
            nn.Tanh(),
        )

    def forward(self, z):
        """z: (B, Z) → images (B, C, H, W) in [-1, 1]."""
        return self.body(z).unflatten(1, self.image_shape)


class DenseDiscriminator(nn.Module):
    """Image → logit through fully connected layers with LeakyReLU and dropout.

    image_shape: (C, H, W); width: units of the last hidden layer, the first has twice as many.
    """

    def __init__(self, image_shape, width=256, dropout=0.3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(image_shape), 2 * width),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Linear(width, 1),
        )

    def forward(self, x):
        """x: (B, C, H, W) → logits (B,)."""
        return self.body(x).squeeze(1)


class Flatten(nn.Flatten):
    """nn.Flatten whose gradient comes back in the memory layout that its input had.

    Else the layers before it would meet maps in one layout and gradients in another, which costs
    an activation ten times its time with channels_last.
    """

    def forward(self, x):
        """x: (B, C, H, W) → (B, C·H·W)."""
        return super().forward(_SameLayout.apply(x))


class _SameLayout(torch.autograd.Function):
    """The identity, and for the gradient the memory layout of the input."""

    @staticmethod
    def forward(ctx, x):
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        ctx.layout = torch.channels_last if last else torch.contiguous_format
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.contiguous(memory_format=ctx.layout)


class DCGANGenerator(nn.Module):
    """Latent → image: a linear layer to a coarse map, then stride-2 transposed convolutions.

    size: 16, 28, 32 or 64 pixels; channels: 1 or 3; width: channels of the finest hidden map,
    doubled at each coarser one. Raises ValueError for another size.
    Source: Radford et al. 2016, arXiv:1511.06434; the last 3×3 convolution is ours.
    """

    def __init__(self, size, channels, z_dim=64, width=32):
        super().__init__()
        side, doublings = pyramid(size)
        self.z_dim = z_dim
        c = width * 2**doublings
        layers = [nn.Linear(z_dim, c * side * side, bias=False), nn.Unflatten(1, (c, side, side))]
        layers += [nn.BatchNorm2d(c), nn.ReLU()]
        for _ in range(doublings):  # (B, c, s, s) → (B, c/2, 2s, 2s)
            up = nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1, bias=False)
            layers += [up, nn.BatchNorm2d(c // 2), nn.ReLU()]
            c //= 2
        layers += [nn.Conv2d(c, channels, 3, padding=1), nn.Tanh()]
        self.body = nn.Sequential(*layers)
        self.apply(dcgan_init)

    def forward(self, z):
        """z: (B, Z) → images (B, C, H, W) in [-1, 1]."""
        return self.body(z)


class DCGANDiscriminator(nn.Module):
    """Image → logit: stride-2 convolutions with LeakyReLU, BatchNorm on all but the first.

    size, channels, width: as for the generator. Source: Radford et al. 2016, arXiv:1511.06434.
    """

    def __init__(self, size, channels, width=32):
        super().__init__()
        side, doublings = pyramid(size)
        c = width
        layers = [nn.Conv2d(channels, c, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(doublings - 1):  # (B, c, s, s) → (B, 2c, s/2, s/2)
            down = nn.Conv2d(c, 2 * c, 4, stride=2, padding=1, bias=False)
            layers += [down, nn.BatchNorm2d(2 * c), nn.LeakyReLU(0.2)]
            c *= 2
        same = nn.Conv2d(c, 2 * c, 3, padding=1, bias=False)
        layers += [same, nn.BatchNorm2d(2 * c), nn.LeakyReLU(0.2)]
        layers += [Flatten(), nn.Linear(2 * c * side * side, 1)]
        self.body = nn.Sequential(*layers)
        self.apply(dcgan_init)

    def forward(self, x):
        """x: (B, C, H, W) → logits (B,)."""
        return self.body(x).squeeze(1)


class VAE(nn.Module):
    """Convolutional encoder to (mu, logvar) and decoder to pixel logits.

    size: 16, 28, 32 or 64 pixels; channels: 1 or 3; width: channels of the finest hidden map.
    likelihood: "bernoulli", or "gaussian": pixels in [-1, 1] around the mean picture, `sample`, all
        with one σ that is learned: exp of the weight `log_sigma`, at first 0.37.
    Raises: ValueError for another size or likelihood.
    Source: Kingma & Welling 2014, arXiv:1312.6114; convolutions as in the DCGAN; the learned σ as
    in Rybkin et al. 2021, arXiv:2006.13202.
    """

    def __init__(self, size, channels, z_dim=24, width=32, likelihood="bernoulli"):
        super().__init__()
        if likelihood not in ("bernoulli", "gaussian"):
            raise ValueError(f"A VAE's likelihood is bernoulli or gaussian, not {likelihood!r}.")
        side, doublings = pyramid(size)
        self.z_dim = z_dim
        layers, c = [], channels
        for i in range(doublings):  # (B, c, s, s) → (B, width·2ⁱ, s/2, s/2)
            layers += [nn.Conv2d(c, width * 2**i, 4, stride=2, padding=1), nn.ReLU()]
            c = width * 2**i
        hidden = 8 * width
        self.encoder = nn.Sequential(
            *layers, Flatten(), nn.Linear(c * side * side, hidden), nn.ReLU()
        )
        self.to_mu = nn.Linear(hidden, z_dim)
        self.to_logvar = nn.Linear(hidden, z_dim)  # a head of its own: see chapter 08

        layers = [nn.Linear(z_dim, hidden), nn.ReLU(), nn.Linear(hidden, c * side * side)]
        layers += [nn.ReLU(), nn.Unflatten(1, (c, side, side))]
        for i in reversed(range(doublings)):
            out = width * 2 ** max(i - 1, 0)
            layers += [nn.ConvTranspose2d(c, out, 4, stride=2, padding=1), nn.ReLU()]
            c = out
        layers += [nn.Conv2d(c, channels, 3, padding=1)]
        self.decoder = nn.Sequential(*layers)
        if likelihood == "gaussian":
            self.log_sigma = nn.Parameter(torch.tensor(-1.0))

    def encode(self, x):
        """x: (B, C, H, W) in [-1, 1] → mu, logvar (B, Z) of q(z|x), logvar = log σ²."""
        h = self.encoder(x)
        return self.to_mu(h), self.to_logvar(h)

    def decode(self, z):
        """z: (B, Z) → pixel logits (B, C, H, W); sigmoid gives the mean picture in [0, 1]."""
        return self.decoder(z)

    def forward(self, x, noise=None):
        """x: (B, C, H, W) → pixel logits, mu, logvar, with one z per picture.

        noise: (B, Z), the ε of `reparameterise`; drawn where none is given.
        """
        mu, logvar = self.encode(x)
        return self.decode(reparameterise(mu, logvar, noise)), mu, logvar

    def sample(self, z):
        """z: (B, Z) → mean pictures (B, C, H, W) in [-1, 1]."""
        return 2 * torch.sigmoid(self.decode(z)) - 1


class Classifier(nn.Module):
    """A small convolutional classifier: three 3×3 blocks with pooling, 128 features, logits.

    size: side of the pictures in pixels, at least 8; channels: 1 or 3; classes: number of them;
    width: channels of the first block, then twice and three times as many; dropout: share of units
    that are silenced before each linear layer in training.
    `.features(x)` is what chapter 07's distances are measured on. `.arguments` makes another like
    it: `Classifier(**net.arguments)`. Raises ValueError for size < 8.
    """

    def __init__(self, size, channels, classes=10, width=32, dropout=0.1):
        super().__init__()
        if size < 8:
            raise ValueError(f"Size {size} is too small: three poolings need at least 8 pixels.")
        self.size, self.channels = size, channels
        self.arguments = dict(
            size=size, channels=channels, classes=classes, width=width, dropout=dropout
        )
        layers, c = [], channels
        for out in (width, 2 * width, 3 * width):  # (B, c, s, s) → (B, out, s/2, s/2)
            same = nn.Conv2d(c, out, 3, padding=1, bias=False)  # BatchNorm's own bias follows
            layers += [same, nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
            c = out
        side = size // 8  # each pooling drops a last odd row and column
        self.body = nn.Sequential(
            *layers, Flatten(), nn.Dropout(dropout), nn.Linear(c * side * side, 128), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(128, classes))

    def features(self, x):
        """x: (B, C, H, W) in [-1, 1] → features (B, 128), not negative."""
        return self.body(x)

    def forward(self, x):
        """x: (B, C, H, W) in [-1, 1] → logits (B, K)."""
        return self.head(self.body(x))


class MinibatchDiscrimination(nn.Module):
    """Appends to each sample's features how close it is to the others of its batch.

    Every sample i gets `kernels` projections M_ib (of `dims` numbers each) of its features. The new
    feature b is the mean over the other samples j of exp(−‖M_ib − M_jb‖₁): near 1 in a batch of
    copies, so a discriminator behind this layer sees a collapse that no single sample shows.

    features: size of the input; kernels: how many features are appended; dims: size of each M_ib.
    Raises: ValueError for a batch of one, which has no others.
    Source: Salimans et al. 2016, arXiv:1606.03498, section 3.2. They sum over the batch, itself
    included; the mean of the others does not grow with the batch.
    """

    def __init__(self, features, kernels=16, dims=4):
        super().__init__()
        self.kernels, self.dims = kernels, dims
        self.project = nn.Linear(features, kernels * dims, bias=False)  # a bias would cancel

    def forward(self, h):
        """h: (B, features) → (B, features + kernels)."""
        if len(h) < 2:
            raise ValueError("Minibatch discrimination compares samples: it needs 2 or more.")
        m = self.project(h).unflatten(1, (self.kernels, self.dims))  # (B, kernels, dims)
        distance = (m[:, None] - m[None]).abs().sum(dim=-1)  # (B, B, kernels)
        closeness = (torch.exp(-distance).sum(dim=1) - 1) / (len(h) - 1)  # without itself
        return torch.cat([h, closeness], dim=1)


def reparameterise(mu, logvar, noise=None):
    """z = μ + σ·ε with ε ~ N(0, I): a draw from N(μ, σ²) that gradients flow through.

    mu, logvar, noise: (B, Z) → z (B, Z); noise is ε, drawn where none is given.
    Source: Kingma & Welling 2014, arXiv:1312.6114, section 2.4.
    """
    noise = torch.randn_like(mu) if noise is None else noise
    return mu + torch.exp(0.5 * logvar) * noise


WEIGHTS = Path(__file__).with_name("weights")  # what the course ships; see the cards in README.md


def load(path):
    """Build the net that a safetensors file holds, with the sizes that its tensors have.

    path: what `train_gan`, `train_vae` or `train_classifier` wrote: weights, and the settings of
    the run as metadata. Weights stored in float16 or 8 bits become float32.
    Returns: DCGANGenerator, DenseGenerator, VAE or Classifier, on the CPU, in eval mode, with its
        run's settings as `.settings` (a dict).
    Raises: FileNotFoundError; ValueError if the file holds none of these nets.
    """
    from safetensors.torch import load as read

    content = Path(path).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    settings = json.loads(header.get("__metadata__", {}).get("settings", "{}"))
    shape, weights = settings.get("shape", ()), read(content)  # (C, H, W)
    for name in [key for key in weights if key.endswith(".scale")]:  # 8-bit rows: tools/ship.py
        matrix = name.removesuffix(".scale")
        weights[matrix] = weights[matrix].float() * weights.pop(name).float()
    first = weights.get("body.0.weight", torch.empty(0)).shape
    if len(shape) != 3 or not ("to_mu.weight" in weights or len(first) > 1):
        raise ValueError(f"{path} holds none of the course's nets, or not the pictures' shape.")
    if "to_mu.weight" in weights:
        z_dim, hidden = weights["to_mu.weight"].shape
        likelihood = "gaussian" if "log_sigma" in weights else "bernoulli"
        net = VAE(shape[1], shape[0], z_dim, hidden // 8, likelihood)
    elif "head.1.bias" in weights:
        net = Classifier(shape[1], shape[0], len(weights["head.1.bias"]), first[0])
    elif any(tensor.ndim == 4 for tensor in weights.values()):  # the linear layer, then maps
        side, doublings = pyramid(shape[1])
        net = DCGANGenerator(shape[1], shape[0], first[1], first[0] // side**2 // 2**doublings)
    else:
        net = DenseGenerator(shape, z_dim=first[1], width=first[0])
    net.load_state_dict(weights)
    net.settings = settings
    return net.eval()


def shipped(name):
    """A trained net that comes with the course, such as "vae_fashion_mnist"; see `load`.

    Raises: ValueError naming those there are.
    """
    path = WEIGHTS / f"{name}.safetensors"
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))) or "none"
        raise ValueError(f"No net {name!r} is shipped; there are: {names}.")
    return load(path)
