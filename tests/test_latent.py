"""Moving in latent spaces, checked against rotations, planted directions and planted latents."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from gencourse import latent

Z = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def ends():
    a, b = torch.randn(2, 10, Z, generator=generator(), dtype=torch.float64)
    return a, b


# --- interpolation --------------------------------------------------------------------------------


def test_lerp_is_a_straight_line_and_positions_come_first(ends):
    a, b = ends
    t = torch.linspace(0, 1, 5)
    line = latent.lerp(a, b, t)
    assert line.shape == (5, 10, Z)
    torch.testing.assert_close(line[0], a)
    torch.testing.assert_close(line[4], b)
    torch.testing.assert_close(line[1:] - line[:-1], ((b - a) / 4).expand(4, 10, Z))
    torch.testing.assert_close(latent.lerp(a, b, 0.25), line[1])
    assert latent.lerp(a[0], b[0], [0.5]).shape == (1, Z)


def turned(u, v, phi):
    """u turned by phi towards v: an independent route, by Gram–Schmidt and a rotation."""
    w = v - (v @ u) / (u @ u) * u
    w = w / w.norm() * u.norm()
    return math.cos(phi) * u + math.sin(phi) * w


def test_slerp_is_a_rotation_in_the_plane_of_its_ends(ends):
    a, b = (x / x.norm(dim=1, keepdim=True) * math.sqrt(Z) for x in ends)
    for t in (0.0, 0.3, 0.5, 1.0):
        between = latent.slerp(a, b, t)
        for i in range(len(a)):
            omega = math.acos((a[i] @ b[i] / Z).item())
            torch.testing.assert_close(between[i], turned(a[i], b[i], t * omega))
        torch.testing.assert_close(between.norm(dim=1), torch.full_like(a[:, 0], math.sqrt(Z)))


def test_slerp_has_constant_speed_and_lerp_has_not():
    a, b = torch.eye(3, dtype=torch.float64)[:2]
    t = torch.linspace(0, 1, 11)

    def angles(path):
        return torch.atan2(path[:, 1], path[:, 0]).diff()

    torch.testing.assert_close(
        angles(latent.slerp(a, b, t)), torch.full((10,), math.pi / 20, dtype=torch.float64)
    )
    assert angles(latent.lerp(a, b, t)).std() > 0.01


def test_the_norm_goes_linearly(ends):
    a, b = ends
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    expected = (1 - t)[:, None] * a.norm(dim=1) + t[:, None] * b.norm(dim=1)
    torch.testing.assert_close(latent.slerp(a, b, t).norm(dim=-1), expected)
    torch.testing.assert_close(latent.slerp(a, b, t)[[0, -1]], torch.stack([a, b]))


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-8, 1e-4, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearly_parallel_ends_go_over_into_lerp(gap, dtype):
    a = torch.randn(Z, generator=generator(), dtype=dtype)
    b = 2 * (a + gap * torch.randn(Z, generator=generator(1), dtype=dtype))
    middle = latent.slerp(a, b, 0.3)
    assert middle.isfinite().all()
    tolerance = gap**2 + gap + 1e-5 * (dtype == torch.float32) + 1e-12
    assert (middle - latent.lerp(a, b, 0.3)).norm() < 10 * tolerance


def test_slerp_has_a_gradient_even_between_equal_ends():
    a = torch.randn(3, Z, generator=generator(), requires_grad=True)
    b = torch.randn(3, Z, generator=generator(1))
    (gradient,) = torch.autograd.grad(latent.slerp(a, b, 0.4).sum(), a)
    assert gradient.isfinite().all()


def test_ends_without_one_great_circle_are_refused():
    a = torch.randn(2, Z, generator=generator())
    with pytest.raises(ValueError, match="opposite directions"):
        latent.slerp(a, -3 * a, 0.5)
    with pytest.raises(ValueError, match="opposite directions"):
        latent.slerp(a, torch.stack([a[1], -a[1]]), 0.5)  # one pair is enough
    with pytest.raises(ValueError, match="length 0"):
        latent.slerp(a, torch.zeros(2, Z), 0.5)
    for function in (latent.lerp, latent.slerp):
        with pytest.raises(ValueError, match="different shapes"):
            function(a, a[0], 0.5)


def test_slerp_keeps_the_norm_of_gaussian_draws_and_lerp_loses_it():
    a, b = torch.randn(2, 5_000, Z, generator=generator())
    size = (a.norm(dim=1).mean() / math.sqrt(Z)).item()
    lost = latent.lerp(a, b, 0.5).norm(dim=1).mean() / math.sqrt(Z)
    kept = latent.slerp(a, b, 0.5).norm(dim=1).mean() / math.sqrt(Z)
    assert abs(kept - size) < 0.01 and abs(lost - size / math.sqrt(2)) < 0.01


# --- traversals and directions --------------------------------------------------------------------


def test_a_traversal_changes_one_unit_only():
    z = torch.randn(4, 6, generator=generator())
    moved = latent.traverse(z, 2, [-1.0, 0.0, 3.0])
    assert moved.shape == (3, 4, 6)
    assert moved[2, :, 2].eq(3).all() and moved[0, :, 2].eq(-1).all()
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(moved[..., others], z[:, others].expand(3, 4, 5))
    assert latent.traverse(z[0], -1, torch.arange(5)).shape == (5, 6)
    with pytest.raises(IndexError, match="no unit 6"):
        latent.traverse(z, 6, [0.0])


def planted(n=4_000, seed=0):
    """Codes whose label decides a step along w; unit 1 varies along with it, far more widely."""
    g = generator(seed)
    w = torch.zeros(8)
    w[0], w[3] = 1.5, -1.0
    labels = torch.randint(0, 2, (n,), generator=g)
    return torch.randn(n, 8, generator=g) + labels[:, None] * w, labels, w


@pytest.mark.parametrize("method", ["means", "logistic"])
def test_a_planted_direction_is_found_with_its_length(method):
    codes, labels, w = planted()
    found = latent.direction(codes, labels, method)
    assert torch.cosine_similarity(found, w, dim=0) > 0.99
    assert abs(found.norm() - w.norm()) < 0.1 * w.norm()
    torch.testing.assert_close(latent.direction(codes, labels.bool(), method), found)
    torch.testing.assert_close(latent.direction(codes, 1 - labels, method), -found)


@pytest.mark.parametrize("method", ["means", "logistic"])
def test_one_step_goes_from_class_to_class_along_the_direction(method):
    codes, labels, _ = planted()
    codes = codes @ torch.randn(8, 8, generator=generator(3))  # correlated, of several sizes
    found = latent.direction(codes, labels, method)
    along = codes @ found / found.norm()
    step = along[labels == 1].mean() - along[labels == 0].mean()
    torch.testing.assert_close(step, found.norm(), rtol=1e-4, atol=0)


def test_logistic_leaves_out_what_only_varies_along():
    codes, labels, w = planted()
    codes[:, 1] += 2 * (codes @ w)  # a bystander that follows the attribute
    means = latent.direction(codes, labels)
    logistic = latent.direction(codes, labels, "logistic")
    assert means[1].abs() > means[0].abs()
    assert logistic[1].abs() < 0.2 * logistic[0].abs()


def test_labels_that_make_no_direction_are_refused():
    codes = torch.randn(6, 3)
    for labels in (torch.zeros(6), torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])):
        with pytest.raises(ValueError, match="0 and 1"):
            latent.direction(codes, labels)
    with pytest.raises(ValueError, match="One label per code"):
        latent.direction(codes, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no method"):
        latent.direction(codes, torch.tensor([0, 1] * 3), "median")


# --- editing --------------------------------------------------------------------------------------


class LinearVAE(nn.Module):
    """Encoder x ↦ Ax, decoder z ↦ Aᵀz with orthonormal rows: an edit has a closed form."""

    def __init__(self):
        super().__init__()
        rows = torch.linalg.qr(torch.randn(16, 3, generator=generator()))[0].T
        self.a = nn.Parameter(rows)
        self.dropout = nn.Dropout(0.9)  # would spoil everything in training mode

    def encode(self, x):
        mu = self.dropout(x.flatten(1)) @ self.a.T
        return mu, torch.zeros_like(mu)

    def sample(self, z):
        return (z @ self.a).unflatten(1, (1, 4, 4))


def test_an_edit_moves_the_code_and_nothing_else():
    vae = LinearVAE().train()
    x = vae.sample(torch.randn(5, 3, generator=generator(1))).detach()
    d = torch.tensor([0.5, 0.0, -1.0])
    shift = vae.sample(d[None]).detach()
    torch.testing.assert_close(latent.edit(vae, x, d, 0.0), x)
    torch.testing.assert_close(latent.edit(vae, x, d, 2.0), x + 2 * shift)
    several = latent.edit(vae, x, d, torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(several, torch.stack([x - shift, x + shift]))
    assert vae.training and vae.dropout.training and vae.a.requires_grad
    assert not several.requires_grad


# --- inversion ------------------------------------------------------------------------------------


class Generator(nn.Module):
    """Smooth, not linear, with BatchNorm: a small stand-in for a trained generator."""

    def __init__(self):
        super().__init__()
        self.z_dim = 6
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                *(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.LeakyReLU(0.2)),
                *(nn.Linear(40, 36), nn.Tanh()),
            )

    def forward(self, z):
        return self.body(z).unflatten(1, (1, 6, 6))


@pytest.fixture
def planted_pictures():
    G = Generator()
    z = torch.randn(4, 6, generator=generator(5))
    with torch.no_grad():
        return G, G.eval()(z), z


def test_inversion_finds_a_planted_picture(planted_pictures):
    G, x, z = planted_pictures
    found = latent.invert(G, x, steps=400, starts=6, penalty=0.0)
    assert found.z.shape == z.shape and found.errors.shape == (6, 4)
    assert found.error.max() < 1e-4 < x.var()
    torch.testing.assert_close(found.pictures, x, atol=0.1, rtol=0)
    torch.testing.assert_close(G(found.z), found.pictures)
    torch.testing.assert_close((found.pictures - x).square().mean(dim=(1, 2, 3)), found.error)


def test_the_best_of_the_starts_is_kept(planted_pictures):
    G, x, _ = planted_pictures
    many = latent.invert(G, x, steps=15, starts=8, penalty=0.0)
    torch.testing.assert_close(many.error, many.errors.amin(dim=0))
    alone = latent.invert(G, x, steps=15, starts=1, penalty=0.0)
    torch.testing.assert_close(alone.error, many.errors[0])  # the first start is the same draw
    assert (many.error < alone.error).any() and (many.errors.std(dim=0) > 0).all()


def test_each_picture_is_inverted_on_its_own(planted_pictures):
    G, x, _ = planted_pictures
    together = latent.invert(G, x, steps=20, starts=1)
    first = latent.invert(G, x[:1], steps=20, starts=1)
    torch.testing.assert_close(together.pictures[:1], first.pictures, atol=1e-4, rtol=0)


def test_the_penalty_holds_the_norm(planted_pictures):
    G, _, _ = planted_pictures
    far = G(4 * torch.randn(4, 6, generator=generator(7))).detach()  # from outside the shell
    free = latent.invert(G, far, penalty=0.0)
    held = latent.invert(G, far, penalty=100.0)
    off = [(found.z.norm(dim=1) - math.sqrt(6)).abs().max() for found in (free, held)]
    assert off[1] < 0.1 < off[0]
    assert held.error.mean() > free.error.mean()


def test_inversion_leaves_everything_as_it_was(planted_pictures):
    G, x, _ = planted_pictures
    G.train()
    G.body[1].eval()
    G.body[0].bias.requires_grad_(False)
    before = {k: v.clone() for k, v in G.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    first = latent.invert(G, x, steps=5, seed=1)
    torch.testing.assert_close(torch.randn(3), expected, rtol=0, atol=0)
    for k, v in G.state_dict().items():
        assert torch.equal(v, before[k]), k
    assert G.training and G.body[2].training and not G.body[1].training
    flags = [p.requires_grad for p in G.parameters()]
    assert flags == [p is not G.body[0].bias for p in G.parameters()]
    assert all(p.grad is None for p in G.parameters())
    again = latent.invert(G, x, steps=5, seed=1)
    assert torch.equal(first.z, again.z) and not first.z.requires_grad
    assert not torch.equal(first.z, latent.invert(G, x, steps=5, seed=2).z)


def test_an_inversion_that_fails_leaves_everything_as_it_was_too(planted_pictures):
    G, x, _ = planted_pictures
    G.train()
    with pytest.raises(ValueError, match=r"draws pictures \(1, 6, 6\), these are \(1, 5, 5\)"):
        latent.invert(G, x[:, :, :5, :5])
    assert G.training and all(p.requires_grad for p in G.parameters())
    for wrong in ({"steps": 0}, {"starts": 0}):
        with pytest.raises(ValueError, match="At least one step"):
            latent.invert(G, x, **wrong)


# --- a density over codes -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clusters():
    g = generator(2)
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 5.0]])
    k = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 3_000, replacement=True, generator=g)
    return centres[k] + 0.5 * torch.randn(3_000, 2, generator=g)


def test_a_mixture_draws_what_it_was_fitted_to(clusters):
    mixture = latent.fit_mixture(clusters, components=3)
    drawn = mixture.sample(20_000, seed=1)
    assert drawn.shape == (20_000, 2) and drawn.dtype == torch.float32
    torch.testing.assert_close(drawn.mean(0), clusters.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), clusters.T.cov(), atol=0.3, rtol=0.03)
    assert torch.equal(mixture.sample(5, seed=1), mixture.sample(5, seed=1))
    assert not torch.equal(mixture.sample(5, seed=1), mixture.sample(5, seed=2))
    first, second = drawn[:10_000], drawn[10_000:]  # not sorted by component
    torch.testing.assert_close(first.mean(0), second.mean(0), atol=0.2, rtol=0)


def test_a_mixtures_density_is_sklearns(clusters):
    from sklearn.mixture import GaussianMixture

    theirs = GaussianMixture(3, reg_covar=1e-3, max_iter=300, random_state=0).fit(clusters.double())
    mine = latent.fit_mixture(clusters, components=3, seed=0)
    expected = torch.from_numpy(theirs.score_samples(clusters.double().numpy()))
    torch.testing.assert_close(mine.log_prob(clusters), expected)


def test_too_few_codes_are_refused():
    with pytest.raises(ValueError, match="20 components need"):
        latent.fit_mixture(torch.randn(19, 2))


def test_importing_it_loads_nothing_else():
    program = (
        "import sys, gencourse.latent; "
        "print([m for m in sys.modules if m.startswith('gencourse.') and m != 'gencourse.latent'],"
        " 'sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[] False", done.stdout + done.stderr
