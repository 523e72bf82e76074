"""Other courses' training programs, run from their own checkouts; nothing of theirs is in here.

A program is read and run statement by statement. A name that is listed in `instead` gets another
value where a statement would bind it: this is how their loop trains our networks, or reads the
pictures that lie on this machine. Their loop, loss, optimizer and data loading stay as they are.
The other way round, `their_gan` and `their_vae` run only the statements that define their
networks, so that our loop trains exactly those.
"""

import ast
import importlib.machinery
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from gencourse import data, fetch, nets
from gencourse.runtime import UserError


class Program(NamedTuple):
    """peer: whose it is; file: in their checkout; definitions: the names that their networks are
    defined by; networks: the names of the networks in the running program; word: stands in the
    line that is printed at every step (the chapter of d2l prints none)."""

    peer: str
    file: str
    definitions: tuple
    networks: tuple
    word: str | None


PROGRAMS = {
    "examples-dcgan": Program(
        *("pytorch/examples", "dcgan/main.py", ("Generator", "Discriminator")),
        *(("netG", "netD"), "Loss_D"),
    ),
    "examples-vae": Program(
        *("pytorch/examples", "vae/main.py", ("VAE",), ("model",), "Train Epoch"),
    ),
    "pytorch-gan": Program(
        *("PyTorch-GAN", "implementations/dcgan/dcgan.py", ("Generator", "Discriminator")),
        *(("generator", "discriminator"), "D loss"),
    ),
    "d2l": Program(
        *("d2l-en", "chapter_generative-adversarial-networks/dcgan.md"),
        ("G_block", "D_block", "n_G", "n_D", "net_G", "net_D"),
        *(("net_G", "net_D"), None),
    ),
}
FILES = {  # what a checkout is recognised by
    "pytorch/examples": ("dcgan/main.py", "vae/main.py"),
    "PyTorch-GAN": ("implementations/dcgan/dcgan.py",),
    "d2l-en": ("chapter_generative-adversarial-networks/dcgan.md", "d2l/torch.py"),
}


def recognise(paths):
    """{peer: root of its checkout}; UserError for a folder that is none of those known here."""
    found = {}
    for path in map(Path, paths):
        for peer, files in FILES.items():
            if all((path / file).is_file() for file in files):
                found[peer] = path.resolve()
                break
        else:
            known = "; ".join(f"{peer} (with {', '.join(f)})" for peer, f in FILES.items())
            raise UserError(f"{path} is none of the checkouts that are known here: {known}.")
    return found


def commit(root):
    """The checkout's commit, or None where git knows of none."""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True)
    return answer.stdout.strip() or None


# Reading and running a program --------------------------------------------------------------------


def statements(file):
    """The top-level statements of a Python file, or of a chapter's PyTorch cells.

    Of a chapter those that only show something (loops and lone expressions) are left out; the call
    of train stays.
    """
    text = Path(file).read_text(encoding="utf-8")
    if Path(file).suffix != ".md":
        return ast.parse(text).body
    cells = re.findall(r"^```\{\.python \.input\}\n#@tab (.*?)\n(.*?)^```", text, re.S | re.M)
    body = ast.parse("\n".join(code for tabs, code in cells if "pytorch" in tabs)).body
    return [s for s in body if not isinstance(s, ast.For | ast.Expr) or _calls_train(s)]


def _calls_train(statement):
    call = getattr(statement, "value", None)
    return isinstance(call, ast.Call) and getattr(call.func, "id", None) == "train"


def bound(statement):
    """The names that a statement gives a value to, imports aside."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return {statement.name}
    inside = (node for target in getattr(statement, "targets", []) for node in ast.walk(target))
    return {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def execute(body, namespace, file, instead=()):
    """Run statements in a namespace; a name in the dict `instead` gets its value when bound.

    A statement that binds such names only is not run.
    """
    for statement in body:
        names = bound(statement)
        if not names or names - set(instead):
            exec(compile(ast.Module([statement], []), str(file), "exec"), namespace)
        namespace.update({name: instead[name] for name in names & set(instead)})


def run(name, root, folder, arguments=(), instead=(), namespace=None, update_g=None):
    """Run a peer's program in this process, to its end or until something raises.

    name: of PROGRAMS; root: its checkout; folder: from `workplace`; arguments: of its command line;
    instead: see the top; namespace: its dict of globals, if the caller wants to look into it;
    update_g: d2l only, a function of their update_G that is used in its place.
    """
    file = Path(root) / PROGRAMS[name].file
    multiprocessing.set_start_method(None, force=True)  # of their workers: Python's, not ours
    os.chdir(folder / "programs" / "one")
    sys.argv = [str(file), *map(str, arguments)]
    namespace = {} if namespace is None else namespace
    namespace |= {"__name__": "__main__", "__file__": str(file)}
    if name == "d2l":
        library = _d2l(root, folder / "pictures")
        library.update_G = update_g(library.update_G) if update_g else library.update_G
    execute(statements(file), namespace, file, dict(instead))


def _d2l(root, pictures):
    """Their library, with its download replaced by a folder; what is not installed is left out."""
    os.environ["MPLBACKEND"] = "agg"  # it draws curves, for nobody
    sys.path.insert(0, str(root))
    for package in ("pandas", "requests", "scipy", "scipy.spatial", "matplotlib_inline"):
        try:
            __import__(package)
        except ImportError:
            spec = importlib.machinery.ModuleSpec(package, None)
            sys.modules[package] = mock.MagicMock(__spec__=spec)
    from d2l import torch as library

    library.download_extract = lambda name: str(pictures)
    return library


def workplace(folder, dataset="mnist", pictures=None):
    """Links in an empty folder, so that every program finds its data where it looks for it.

    dataset: what they get where they ask for MNIST: "mnist" or "fashion_mnist". pictures: a folder
    with class subfolders. The programs run in folder/programs/one.
    """
    data.load(dataset)  # fetches it where it is missing
    name = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[dataset]
    homes = [home for home in (fetch.given_folder(), fetch.cache_folder()) if home]
    source = next(home / name for home in homes if (home / name / "raw").is_dir())
    for place in ("data", "data/mnist", "programs/data"):
        (folder / place).mkdir(parents=True)
        (folder / place / "MNIST").symlink_to(source)
    (folder / "programs/one/results").mkdir(parents=True)
    if pictures:
        (folder / "pictures").symlink_to(Path(pictures).resolve())
    return folder


# Their networks in our loop -----------------------------------------------------------------------


class Without:
    """A module, some of whose names mean something else: {"Sigmoid": nn.Identity}."""

    def __init__(self, module, **other):
        self.__dict__.update(other, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


class OurGenerator(nn.Module):
    """Their generator in our loop: z (B, Z), which theirs wants as (B, Z, 1, 1) or as it is."""

    def __init__(self, net, z_dim, trailing):
        super().__init__()
        self.net, self.z_dim, self.trailing = net, z_dim, (1,) * trailing

    def forward(self, z):
        return self.net(z.reshape(*z.shape, *self.trailing))


class OurDiscriminator(nn.Module):
    """Their discriminator in our loop: logits (B,)."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).flatten()


class OurVAE(nn.Module):
    """Their MLP VAE in our loop: pictures in [-1, 1] come in, pixel logits go out."""

    def __init__(self, net, z_dim):
        super().__init__()
        self.net, self.z_dim = net, z_dim

    def encode(self, x):
        return self.net.encode(((x + 1) / 2).flatten(1))

    def decode(self, z):
        return self.net.decode(z).unflatten(1, (1, 28, 28))

    def forward(self, x, noise=None):
        mu, logvar = self.encode(x)
        noise = torch.randn_like(mu) if noise is None else noise
        return self.decode(mu + torch.exp(0.5 * logvar) * noise), mu, logvar

    def sample(self, z):
        return 2 * torch.sigmoid(self.decode(z)) - 1


def definitions(name, root, **known):
    """What their program defines its networks by, without the last sigmoid: our losses take logits.

    known: the sizes that the definitions refer to.
    """
    file = Path(root) / PROGRAMS[name].file
    namespace = {
        "torch": Without(torch, sigmoid=lambda t: t),
        "nn": Without(nn, Sigmoid=nn.Identity),
        "F": F,
        **known,
    }
    wanted = set(PROGRAMS[name].definitions)
    execute([s for s in statements(file) if bound(s) & wanted], namespace, file)
    return namespace


def their_gan(name, root, size, channels, width, z_dim):
    """A peer's generator and discriminator for our loop, with our initial weights."""
    if name == "examples-dcgan":
        made = definitions(name, root, nz=z_dim, ngf=width, ndf=width, nc=channels)
        G, D, trailing = made["Generator"](1), made["Discriminator"](1), 2
    elif name == "pytorch-gan":
        opt = types.SimpleNamespace(latent_dim=z_dim, img_size=size, channels=channels)
        made = definitions(name, root, opt=opt)
        G, D, trailing = made["Generator"](), made["Discriminator"](), 0
        # Its `view` of the last maps takes no channels_last.
        D.model.register_forward_hook(lambda module, inputs, maps: maps.contiguous())
    else:  # d2l's sizes are fixed
        made = definitions(name, root)
        G, D, trailing = made["net_G"], made["net_D"], 2
    G, D = G.apply(nets.dcgan_init), D.apply(nets.dcgan_init)
    return OurGenerator(G, z_dim, trailing), OurDiscriminator(D)


def their_vae(root, z_dim=20):
    """The MLP VAE of pytorch/examples for our loop; its sizes are fixed."""
    return OurVAE(definitions("examples-vae", root)["VAE"](), z_dim)


# Our networks in their loop -----------------------------------------------------------------------


class TheirGenerator(nn.Module):
    """Our generator in their loops: z comes as (B, Z, 1, 1) or (B, Z)."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z):
        return self.net(z.flatten(1))


class TheirDiscriminator(nn.Module):
    """Our discriminator in their loops: D(x) = sigmoid(logit) in the shape that they want."""

    def __init__(self, net, shape, sigmoid=True):
        super().__init__()
        self.net, self.shape = net, shape
        self.last = nn.Sigmoid() if sigmoid else nn.Identity()

    def forward(self, x):
        return self.last(self.net(x)).view(self.shape)


class TheirVAE(nn.Module):
    """Our VAE in their loop, which wants flat pictures in [0, 1] back."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def decode(self, z):
        return torch.sigmoid(self.net.decode(z)).flatten(1)

    def forward(self, x):
        mu, logvar = self.net.encode(x)
        return self.decode(nets.reparameterise(mu, logvar)), mu, logvar


def our_gan_instead(name, G, D):
    """`instead` for `run`: the program trains our generator and discriminator."""
    generator = TheirGenerator(G)
    if name == "examples-dcgan":
        discriminator = TheirDiscriminator(D, (-1,))
        return {"Generator": lambda ngpu: generator, "Discriminator": lambda ngpu: discriminator}
    if name == "pytorch-gan":
        discriminator = TheirDiscriminator(D, (-1, 1))
        return {"Generator": lambda: generator, "Discriminator": lambda: discriminator}
    return {"net_G": generator, "net_D": TheirDiscriminator(D, (-1, 1, 1, 1), sigmoid=False)}


def weights(*networks):
    """How many trained numbers networks have."""
    return sum(p.numel() for net in networks for p in net.parameters())


def end(number, frame):
    """A handler of SIGTERM: leave through every `finally`, undisturbed by a second signal."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit("Ended.")
