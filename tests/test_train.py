"""The training loops do what the chapters say, and their parts are what the papers say."""

import dataclasses
import inspect

import pytest
import torch
import torch.nn.functional as F

from gencourse import data, losses, nets, train
from gencourse.run import Run
from gencourse.runtime import UserError, device, seed_everything

STEPS, BATCH = 6, 16


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def gan(seed=0, width=8):
    seed_everything(seed)
    return nets.DCGANGenerator(16, 1, width=width), nets.DCGANDiscriminator(16, 1, width=width)


def assert_same_weights(a, b):
    for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_train_gan_is_the_textbook_loop(digits):
    """The same weights as a loop written with torch alone: BCE with labels, no shortcut."""
    G, D = gan()
    averaged = {k: v.clone() for k, v in G.state_dict().items()}
    g_opt = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
    d_opt = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.999))
    one, zero = torch.ones(BATCH), torch.zeros(BATCH)
    bce = F.binary_cross_entropy_with_logits
    seed_everything(3)
    for step in range(STEPS):
        for group in (*g_opt.param_groups, *d_opt.param_groups):
            group["lr"] = 1e-3 if step <= STEPS / 2 else 1e-3 * 2 * (1 - step / STEPS)
        x_real = digits.batch(step, BATCH).cpu()
        x_fake = G(torch.randn(BATCH, 64))
        d_opt.zero_grad()
        (bce(D(x_real), one) + bce(D(x_fake.detach()), zero)).backward()
        d_opt.step()
        g_opt.zero_grad()
        bce(D(x_fake), one).backward()
        g_opt.step()
        for k, v in G.state_dict().items():
            if v.is_floating_point():
                decay = min(0.9, (1 + step) / (10 + step))
                averaged[k] = decay * averaged[k] + (1 - decay) * v

    G2, D2 = gan()
    # The other memory layout adds in another order, and Adam magnifies that where gradients are 0.
    plain = dict(channels_last=False, progress=False)
    ema, history = train.train_gan(
        digits, G2, D2, steps=STEPS, batch_size=BATCH, ema_decay=0.9, seed=3, **plain
    )
    weights = dict(ema.cpu().named_parameters())
    assert_same_weights(D, D2.cpu())
    for name, value in weights.items():
        torch.testing.assert_close(value, averaged[name], rtol=1e-4, atol=1e-5)
    assert history["step"] == list(range(1, STEPS + 1))


def test_train_vae_is_the_textbook_loop(digits):
    seed_everything(0)
    vae = nets.VAE(16, 1, z_dim=4, width=8)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    seed_everything(3)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 if step <= 3 else 1e-3 * 2 * (1 - step / STEPS)
        x = digits.batch(step, BATCH).cpu()
        mu, logvar = vae.encode(x)
        q = torch.distributions.Normal(mu, (logvar / 2).exp())
        p = torch.distributions.Bernoulli(logits=vae.decode(q.rsample()), validate_args=False)
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
        loss = (2.0 * kl.sum(1) - p.log_prob((x + 1) / 2).sum((1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    seed_everything(0)
    other = nets.VAE(16, 1, z_dim=4, width=8)
    history = train.train_vae(
        digits, other, steps=STEPS, batch_size=BATCH, beta=2.0, seed=3, progress=False
    )
    assert_same_weights(vae, other.cpu())
    assert history["loss"][-1] == pytest.approx(loss.item(), rel=1e-4)
    assert history["loss"][-1] == pytest.approx(history["nll"][-1] + 2 * history["kl"][-1])


def test_train_classifier_is_the_textbook_loop(digits):
    def classifier():
        seed_everything(0)
        return nets.Classifier(16, 1, width=4)

    net = classifier().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    seed_everything(3)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 if step <= 3 else 2e-3 * 2 * (1 - step / STEPS)
        x = train.shifted(digits.batch(step, BATCH), 1).cpu()
        log_p = net(x).log_softmax(1)
        labels = digits.labels[digits.indices(step, BATCH)].cpu()
        loss = -log_p[torch.arange(BATCH), labels].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    other = classifier()
    plain = dict(channels_last=False, progress=False)
    history = train.train_classifier(digits, other, steps=STEPS, batch_size=BATCH, seed=3, **plain)
    assert_same_weights(net, other.cpu())
    assert history["loss"][-1] == pytest.approx(loss.item(), rel=1e-4)
    assert history["accuracy"][-1] == (log_p.argmax(1) == labels).float().mean()
    assert not other.training


# --- bit for bit the first release's loops --------------------------------------------------------

MANY = 20


def plain_steps(total, *optimizers, peak):
    """The release's order of things around a step, written out: seed, then rate, draws, step."""
    seed_everything(3)
    for step in range(total):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, 2 * (1 - step / total))
        yield step


def plainly_move(loss, optimizer):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def plain_gan(images, G, D):
    average, decay = {k: v.clone() for k, v in G.state_dict().items()}, 0.995
    adam = {"betas": (0.5, 0.999), "fused": True}
    g_opt = torch.optim.Adam(G.parameters(), lr=1e-3, **adam)
    d_opt = torch.optim.Adam(D.parameters(), lr=1e-3, **adam)
    curve = []
    for step in plain_steps(MANY, g_opt, d_opt, peak=1e-3):
        x_real = images.batch(step, 64)
        x_fake = G(torch.randn(64, G.z_dim))
        d_loss = losses.discriminator_loss(D(x_real), D(x_fake.detach()))
        plainly_move(d_loss, d_opt)
        D.requires_grad_(False)
        plainly_move(losses.generator_loss(D(x_fake)), g_opt)
        D.requires_grad_(True)
        weight = 1 - min(decay, (1 + step) / (10 + step))
        for name, value in G.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, weight)
        curve.append(d_loss.item())
    floats = {k: v for k, v in average.items() if v.is_floating_point()}
    return curve, [*floats.values(), *G.state_dict().values(), *D.state_dict().values()]


def plain_vae(images, vae):
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    curve = []
    for step in plain_steps(MANY, optimizer, peak=1e-3):
        x = images.batch(step, 64)
        logits, mu, logvar = vae(x, torch.randn(64, vae.z_dim))
        nll = losses.bernoulli_nll(logits, (x + 1) / 2)
        loss = losses.negative_elbo(nll, mu, logvar, 1.0)
        plainly_move(loss, optimizer)
        curve.append(loss.item())
    return curve, [*vae.state_dict().values()]


def plain_classifier(images, net):
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
    curve = []
    for step in plain_steps(MANY, optimizer, peak=2e-3):
        indices = images.indices(step, 128)
        x = train.shifted(images.images(indices), 1)
        loss = F.cross_entropy(net(x), images.labels[indices])
        plainly_move(loss, optimizer)
        curve.append(loss.item())
    return curve, [*net.state_dict().values()]


def packaged_gan(images, *pair):
    ema, history = train.train_gan(images, *pair, steps=MANY, seed=3, progress=False)
    floats = [v for v in ema.state_dict().values() if v.is_floating_point()]
    return history["d_loss"], floats + [v for net in pair for v in net.state_dict().values()]


def packaged_vae(images, vae):
    history = train.train_vae(images, vae, steps=MANY, seed=3, progress=False)
    return history["loss"], [*vae.state_dict().values()]


def packaged_classifier(images, net):
    history = train.train_classifier(images, net, steps=MANY, seed=3, progress=False)
    return history["loss"], [*net.state_dict().values()]


@pytest.mark.parametrize(
    ("plain", "packaged", "make"),
    [
        (plain_gan, packaged_gan, gan),
        (plain_vae, packaged_vae, lambda: [nets.VAE(16, 1, width=8)]),
        (plain_classifier, packaged_classifier, lambda: [nets.Classifier(16, 1, width=4)]),
    ],
)
def test_the_walk_takes_the_releases_steps_bit_for_bit(plain, packaged, make, monkeypatch):
    monkeypatch.setenv("GENCOURSE_DEVICE", "cpu")
    images = data.load("digits")
    found = []
    for loop in (plain, packaged):
        seed_everything(0)
        models = [net.to(memory_format=torch.channels_last).train() for net in make()]
        found.append(loop(images, *models))
    (mine, weights), (theirs, others) = found
    assert theirs == mine
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


# --- a kind of model is its step, its nets and its defaults ---------------------------------------


@train.takes_options
def train_mean(images, net, *, lr=0.1, pull=1.0, **options):
    """A kind of its own: a picture that learns the mean of all."""
    options = train.Options(lr=lr, **options)
    (net,) = train.prepared([net], options)
    optimizer, average = torch.optim.SGD(net.parameters(), lr=lr), train.EMA(net, 0.9)

    def step(x, noise):
        loss = pull * (x - net.bias).square().sum(1).mean() + 0 * noise.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach()}

    run = train.walk(
        *(images, lambda i: (images.images(i).flatten(1), torch.randn(2)), step, options),
        nets={"net": net},
        parts={"optimizer": optimizer, "average": average},
        settings={"pull": pull},
        schedule=lambda step, total, peak: peak / 2,
    )
    return average.model, run


class Stop(Exception):
    pass


def test_a_kind_of_its_own_trains_resumes_and_averages(digits, tmp_path):
    def train_it(images, **options):
        net = torch.nn.Linear(1, 256)
        torch.nn.init.zeros_(net.bias)
        options = dict(steps=40, batch_size=50, checkpoint_every=10, progress=False) | options
        return (net, *train_mean(images, net, **options))

    class Torn(data.Images):
        def indices(self, step, batch_size):
            if step == 25:
                raise Stop
            return super().indices(step, batch_size)

    net, average, run = train_it(digits)
    truth = digits.images(torch.arange(len(digits))).mean(0).flatten()
    assert (net.bias - truth).abs().mean() < 0.05 < truth.abs().mean()
    assert not torch.equal(net.bias, average.bias)
    assert run.parts["optimizer"].param_groups[0]["lr"] == pytest.approx(0.05)  # its own schedule
    with pytest.raises(Stop):
        train_it(Torn(digits.x, digits.labels, digits.classes, "digits"), out=tmp_path)
    again, resumed, found = train_it(digits, out=tmp_path)
    assert torch.equal(again.bias, net.bias) and torch.equal(resumed.bias, average.bias)
    expected = {"data", "pictures", "shape", "net", "lr", "pull", "seed", "batch_size", "steps"}
    assert set(found.settings) == expected


LOOPS = [train.train_gan, train.train_vae, train.train_classifier, train_mean]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_signature_tells_all_there_is(loop):
    parameters = inspect.signature(loop).parameters
    shared = {f.name: f.default for f in dataclasses.fields(train.Options)}
    if loop is train.train_classifier:
        del shared["sample_every"]  # it draws none
        shared |= {"batch_size": 128, "lr": 2e-3}
    if loop is train_mean:
        shared["lr"] = 0.1
    found = {n: p.default for n, p in parameters.items() if n in shared}
    assert found == shared | {"steps": inspect.Parameter.empty}
    assert "options" not in parameters and loop.__doc__
    for name in shared:
        assert f"{name}" in train.Options.__doc__, "the one place that documents it"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("keyword", "said"),
    [("step", "Did you mean steps"), ("Batch_size", "Did you mean batch_size"), ("xyz", "help")],
)
def test_a_keyword_that_there_is_not_names_the_nearest(loop, keyword, said):
    with pytest.raises(TypeError, match=f"{loop.__name__} has no option '{keyword}'.*{said}"):
        loop(None, None, **{keyword: 3})


def test_an_option_of_another_kind_is_refused_and_steps_is_needed(digits):
    for loop, wrong in [
        (train.train_gan, "beta"), (train.train_vae, "ema_decay"),
        (train.train_classifier, "sample_every"), (train.train_classifier, "betas"),
    ]:
        with pytest.raises(TypeError, match=f"has no option '{wrong}'"):
            loop(digits, *gan()[: 2 if loop is train.train_gan else 1], steps=1, **{wrong: 1})
    with pytest.raises(TypeError, match="missing a required argument: 'steps'"):
        train.train_gan(digits, *gan())


# Just beyond each end of what a number may be, and what is no number.
EDGES = [
    *({name: value} for name, (least, most) in train.LIMITS.items()
      if name not in ("z_dim", "width", "beta", "shift")
      for value in (least - 1, most + 1, float("nan"), float("inf"), -float("inf"))),
    {"steps": 2.5}, {"batch_size": 1.5}, {"out": ""}, {"precision": "fp8"}, {"precision": ""},
    {"tracker": "paper"}, {"tracker": ""}, {"out": __file__},
]


@pytest.mark.parametrize("wrong", EDGES, ids=str)
def test_options_that_cannot_be_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=name):
        train.Options(**{"steps": 1} | wrong)


def test_a_kinds_own_numbers_are_looked_at_too(digits):
    for loop, wrong in ((train.train_vae, {"beta": -1}), (train.train_classifier, {"shift": 0.5})):
        with pytest.raises(UserError, match=next(iter(wrong))):
            loop(digits, None, steps=1, **wrong)


REFUSED = {
    "a batch that 3 processes can't share": dict(batch_size=16),
    "a graph without CUDA": dict(graph=True),
    "no compiler": dict(compile=True),
    "a tracker that does not start": dict(tracker="tensorboard"),
    "another precision": dict(precision="fp8"),
    "a rate that is none": dict(lr=float("nan")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_refused_before_fresh_deletes(case, digits, tmp_path, monkeypatch):
    def listed():
        return {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    usual = dict(steps=2, batch_size=16, out=tmp_path, progress=False)
    train.train_gan(digits, *gan(), **usual)
    before = listed()
    if "processes" in case:
        monkeypatch.setattr("gencourse.ranks.world", lambda: 3)
    if "compiler" in case:
        monkeypatch.setenv("CXX", "no-such-compiler")
    if "tracker" in case:
        import accelerate.tracking

        class Engine:
            def __init__(self, *arguments, **options):
                raise OSError("no API key")

        monkeypatch.setattr(accelerate.tracking, "TensorBoardTracker", Engine)
    monkeypatch.setenv("GENCOURSE_DEVICE", "cpu")
    with pytest.raises(UserError):
        train.train_gan(digits, *gan(), **usual | {"fresh": True} | REFUSED[case])
    assert listed() == before
    assert len(before) == 6  # config, history, diversity, sheet, checkpoint, weights


def test_the_classifier_learns_the_digits(digits, tmp_path):
    net = nets.Classifier(16, 1, width=8)
    test_images = data.load("digits", split="test")
    before = train.accuracy(net.to(device()), test_images)
    assert net.training, "measuring leaves the mode as it was"
    train.train_classifier(
        digits, net, steps=100, out=tmp_path, test_images=test_images, progress=False
    )
    assert train.accuracy(net, test_images) > 0.85 > before
    with pytest.raises(UserError, match="shift was"):
        train.train_classifier(digits, net, steps=100, shift=3, out=tmp_path, progress=False)


def test_accuracy_counts_what_is_right(digits):
    class Oracle(torch.nn.Module):  # right about all but the first 150 pictures
        def forward(self, x):
            start = self.seen = getattr(self, "seen", 0)
            self.seen += len(x)
            labels = digits.labels[start : self.seen].clone()
            labels[: max(0, 150 - start)] += 1
            return F.one_hot(labels % 10, 10).float()

    assert train.accuracy(Oracle(), digits, batch_size=128) == pytest.approx(1350 / 1500)


def test_a_classifier_needs_classes():
    x = torch.zeros(8, 1, 16, 16, dtype=torch.uint8)
    images = data.Images(x, torch.zeros(8, dtype=torch.long), ["mine"], "folder:mine")
    with pytest.raises(UserError, match="folder:mine has no classes to tell apart"):
        train.train_classifier(images, nets.Classifier(16, 1, width=4), steps=1)


def test_shifted_moves_whole_pictures_and_repeats_the_border():
    """Every result is one of the 25 crops of the picture padded by its own border pixels."""
    torch.manual_seed(0)
    x = torch.randn(200, 2, 6, 7)
    moved = train.shifted(x, 2)
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    crops = [padded[:, :, i : i + 6, j : j + 7] for i in range(5) for j in range(5)]
    same = torch.stack([(crop == moved).flatten(1).all(1) for crop in crops])  # (25, B)
    assert (same.sum(0) == 1).all(), "each picture is moved as one, channels together"
    assert same.any(1).all(), "each of the 25 moves occurs among 200 pictures"
    assert torch.equal(train.shifted(x, 0), x)


@pytest.mark.parametrize("size", [8, 15, 16, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_classifier_at_every_size(size, channels):
    net = nets.Classifier(size, channels, classes=7, width=4).eval()
    x = torch.randn(3, channels, size, size)
    features = net.features(x)
    assert features.shape == (3, 128) and features.min() >= 0
    torch.testing.assert_close(net(x), net.head(features))
    assert net(x).shape == (3, 7)
    assert net.arguments == dict(size=size, channels=channels, classes=7, width=4, dropout=0.1)
    nets.Classifier(**net.arguments).load_state_dict(net.state_dict())


def test_a_picture_too_small_for_the_classifier_is_refused():
    with pytest.raises(ValueError, match="Size 7 is too small"):
        nets.Classifier(7, 1)


def test_freezing_the_discriminator_leaves_the_generators_gradient():
    G, D = gan()
    z = torch.randn(BATCH, 64)
    gradients = []
    for frozen in (False, True):
        D.requires_grad_(not frozen)
        G.zero_grad()
        F.softplus(-D(G(z))).mean().backward()
        gradients.append([p.grad.clone() for p in G.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_ema_is_the_weighted_sum_of_the_past():
    net = torch.nn.BatchNorm1d(1)
    ema = train.EMA(net, decay=0.75)
    ema.updates = 1000  # no longer young
    for value in (1.0, 2.0, 3.0):
        net.bias.data.fill_(value)
        net.running_mean.fill_(10 * value)
        ema.update()
    expected = 0.25 * (3 + 0.75 * 2 + 0.75**2 * 1)  # and 0.75³ of the initial zero
    assert ema.model.bias.item() == pytest.approx(expected)
    assert ema.model.running_mean.item() == pytest.approx(10 * expected)
    assert not ema.model.training and not ema.model.bias.requires_grad


def test_a_young_average_forgets_its_beginning():
    """After n updates towards 1 from 0 the rest of the 0 is ∏ (1 + i)/(10 + i), i < n."""
    net = torch.nn.Linear(1, 1)
    net.bias.data.fill_(0.0)
    ema = train.EMA(net, decay=0.999)
    net.bias.data.fill_(1.0)
    rest = 1.0
    for i in range(20):
        ema.update()
        rest *= (1 + i) / (10 + i)
    assert ema.model.bias.item() == pytest.approx(1 - rest) and rest < 1e-6


def test_learning_rate_is_constant_then_linear():
    rates = [train.learning_rate(step, 100, 2.0) for step in range(100)]
    assert rates[:51] == [2.0] * 51
    assert rates[75] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.04)


def test_a_finished_training_is_loaded(digits, tmp_path):
    G, D = gan()
    first, history = train.train_gan(
        digits, G, D, steps=STEPS, batch_size=BATCH, out=tmp_path, progress=False
    )
    G2, D2 = gan(seed=9)  # other initial weights: the folder's replace them
    again, history_again = train.train_gan(
        digits, G2, D2, steps=STEPS, batch_size=BATCH, out=tmp_path, progress=False
    )
    assert all(
        torch.equal(p, q)
        for p, q in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert history == history_again
    with pytest.raises(UserError, match="lr was"):
        train.train_gan(digits, *gan(), steps=STEPS, batch_size=BATCH, lr=0.5, out=tmp_path)
    with pytest.raises(UserError, match="generator was"):
        train.train_gan(digits, *gan(width=16), steps=STEPS, batch_size=BATCH, out=tmp_path)


def test_weights_come_back_from_safetensors(digits, tmp_path):
    from safetensors.torch import load_file

    G, D = gan()
    ema, _ = train.train_gan(
        digits, G, D, steps=STEPS, batch_size=BATCH, out=tmp_path, progress=False
    )
    fresh = gan(seed=1)[0].eval()
    fresh.load_state_dict(load_file(tmp_path / "generator.safetensors"))
    z = train.fixed_noise(4, 64, 0)
    torch.testing.assert_close(fresh.to(device())(z), ema(z))


def test_sampling_does_not_disturb_the_training(digits, tmp_path):
    """Grids of fixed noise draw no random number and change no BatchNorm statistic."""
    ends = []
    for every in (1, 100):
        G, D = gan()
        out = tmp_path / str(every)
        train.train_gan(digits, G, D, steps=STEPS, sample_every=every, out=out, progress=False)
        ends.append(G.state_dict())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


def test_the_gan_learns_the_digits(digits):
    """After a short training the mean and spread of the pixels are those of the digits."""
    G, D = gan(width=16)
    ema, _ = train.train_gan(digits, G, D, steps=300, lr=2e-3, seed=0, progress=False)
    with torch.no_grad():
        fake = ema(train.fixed_noise(500, 64, 1))
        noise = gan(width=16)[0].to(device())(train.fixed_noise(500, 64, 1))
    real = digits.images(torch.arange(500))

    def distance(x):
        moments = (x.mean(0) - real.mean(0)).abs() + (x.std(0) - real.std(0)).abs()
        return float(moments.mean())

    assert distance(fake) < 0.3 * distance(noise)


def test_the_vae_learns_the_digits(digits):
    vae = nets.VAE(16, 1, z_dim=8, width=16)
    history = train.train_vae(digits, vae, steps=300, lr=2e-3, progress=False)
    assert sum(history["loss"][-20:]) < 0.7 * sum(history["loss"][:20])
    assert history["kl"][-1] > 1.0  # nats: the code carries something


def test_what_the_histories_hold(digits):
    """The recorded numbers of a first step, against the same by hand."""
    G, D = gan()
    seed_everything(5)
    real, fake = D(digits.batch(0, BATCH)), D(G(torch.randn(BATCH, 64)).detach())
    gradients = torch.autograd.grad(
        F.softplus(-real).mean() + F.softplus(fake).mean(), list(D.parameters())
    )
    plain = dict(steps=1, batch_size=BATCH, channels_last=False, progress=False)
    _, history = train.train_gan(digits, *gan(), seed=5, **plain)
    columns = ["d_loss", "g_loss", "d_real", "d_fake", "d_grad", "g_grad", "images_per_second"]
    assert list(history) == ["step", *columns]
    assert history["d_real"] == pytest.approx([torch.sigmoid(real).mean().item()], rel=1e-4)
    assert history["d_fake"] == pytest.approx([torch.sigmoid(fake).mean().item()], rel=1e-4)
    norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
    assert history["d_grad"] == pytest.approx([norm], rel=1e-4)
    assert history["g_grad"][0] > 0

    vae = nets.VAE(16, 1, z_dim=4, width=8)
    history = train.train_vae(digits, vae, **plain)
    assert list(history) == ["step", "loss", "nll", "kl", "active", "grad", "images_per_second"]
    norm = sum(float(p.grad.square().sum()) for p in vae.parameters()) ** 0.5
    assert history["grad"] == pytest.approx([norm], rel=1e-4)


def test_active_units_are_those_whose_mean_varies():
    mu = torch.randn(1000, 5) * torch.tensor([1.0, 0.11, 0.09, 0.01, 0.0]) + 3.0
    assert int(train.active_units(mu)) == 2  # variances 1, 0.0121 | 0.0081, 0.0001, 0


@pytest.mark.parametrize("size", nets.SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_net_at_every_size(size, channels):
    z = torch.randn(2, 5)
    x = nets.DCGANGenerator(size, channels, z_dim=5, width=4)(z)
    assert x.shape == (2, channels, size, size) and x.abs().max() <= 1
    assert nets.DCGANDiscriminator(size, channels, width=4)(x).shape == (2,)
    vae = nets.VAE(size, channels, z_dim=5, width=4)
    logits, mu, logvar = vae(x)
    assert logits.shape == x.shape and mu.shape == logvar.shape == (2, 5)
    assert not torch.allclose(mu, logvar)
    assert vae.sample(z).shape == x.shape and vae.sample(z).abs().max() <= 1
    assert nets.DenseGenerator((channels, size, size), z_dim=5, width=4)(z).shape == x.shape
    assert nets.DenseDiscriminator((channels, size, size), width=4)(x).shape == (2,)


def test_an_unsupported_size_names_the_others():
    with pytest.raises(ValueError, match="Size 48 is not supported; choose one of 16, 28, 32, 64"):
        nets.DCGANGenerator(48, 1)


def test_reparameterise_draws_from_the_right_normal():
    mu, logvar = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 1.4]])
    z = nets.reparameterise(mu.expand(200_000, 2), logvar.expand(200_000, 2))
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), logvar[0].exp(), atol=0.06, rtol=0)


def test_log_does_not_keep_the_graph_alive():
    with Run(progress=False) as run:
        for _ in run.steps(10):
            loss = torch.ones((), requires_grad=True) * 2
            run.log(loss=loss)
            assert run._pending[-1][1]["loss"].grad_fn is None
