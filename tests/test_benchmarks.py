"""The benchmarks beside other courses' programs, on made-up checkouts: what they replace."""

import sys
from pathlib import Path

import pytest
import torch

from gencourse.runtime import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import peers  # noqa: E402  (from benchmarks/)
import quality  # noqa: E402

GAN = """
import torch
import torch.nn as nn
lr = undefined_on_purpose

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(opt.latent_dim, opt.channels * opt.img_size ** 2)
    def forward(self, z):
        return self.net(z).view(-1, opt.channels, opt.img_size, opt.img_size)

class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Flatten()
        self.last = nn.Sequential(nn.Linear(opt.channels * opt.img_size ** 2, 1), nn.Sigmoid())
    def forward(self, x):
        return self.last(self.model(x))

while True:
    pass
"""
CHAPTER = """Words.

```{.python .input}
#@tab mxnet
size = 1
```

```{.python .input}
#@tab mxnet, pytorch
size, count = 2, 3
shown = []
```

```{.python .input}
#@tab pytorch
def train(many):
    shown.append((size, many))
for i in range(9):
    shown.append(i)
shown.append("picture")
train(count)
```
"""


def test_a_checkout_is_recognised_by_its_files_or_refused(tmp_path):
    for file in peers.FILES["d2l-en"]:
        (tmp_path / "d2l" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d2l" / file).touch()
    assert peers.recognise([tmp_path / "d2l"]) == {"d2l-en": (tmp_path / "d2l").resolve()}
    with pytest.raises(UserError, match="none of the checkouts.*dcgan/main.py"):
        peers.recognise([tmp_path])


def test_a_name_gets_another_value_and_the_rest_of_the_program_runs(tmp_path):
    file = tmp_path / "program.py"
    file.write_text("class Net:\n    1 / 0\na, b = 1, 2\nnet = Net()\nfor i in range(3): a += b\n")
    namespace = {}
    peers.execute(peers.statements(file), namespace, file, {"Net": lambda: "ours", "b": 10})
    assert (namespace["net"], namespace["a"]) == ("ours", 31)


def test_of_a_chapter_the_pytorch_cells_run_without_what_they_show(tmp_path):
    file, namespace = tmp_path / "chapter.md", {}
    file.write_text(CHAPTER)
    peers.execute(peers.statements(file), namespace, file)
    assert namespace["shown"] == [(2, 3)]


def test_their_networks_give_logits_in_our_loop_and_nothing_else_of_theirs_runs(tmp_path):
    file = tmp_path / peers.PROGRAMS["pytorch-gan"].file
    file.parent.mkdir(parents=True)
    file.write_text(GAN)
    G, D = peers.their_gan("pytorch-gan", tmp_path, size=4, channels=1, width=0, z_dim=5)
    x = G(torch.zeros(2, G.z_dim))
    with torch.no_grad():
        D.net.last[0].bias.fill_(-3.0)
    assert x.shape == (2, 1, 4, 4) and D(x * 0).tolist() == [-3.0, -3.0]
    assert peers.weights(G, D) == 5 * 16 + 16 + 16 + 1


@pytest.mark.parametrize("name, shape", [("examples-dcgan", (3,)), ("pytorch-gan", (3, 1)),
                                         ("d2l", (3, 1, 1, 1))])
def test_our_networks_fit_their_loops(name, shape):
    G, D = quality.pair()
    found = list(peers.our_gan_instead(name, G, D).values())
    generator, discriminator = found if name == "d2l" else [
        make(1) if name == "examples-dcgan" else make() for make in found
    ]
    x = generator(torch.zeros(3, G.z_dim, 1, 1))
    assert x.shape == (3, 1, 28, 28) and discriminator(x).shape == shape
    assert peers.weights(generator, discriminator) == peers.weights(G, D)


def test_a_run_that_is_finished_is_not_made_again(tmp_path):
    wanted = list(quality.tasks({"peer": None}, [0, 1], [20, 60]))
    assert wanted == [
        entry for seed in (0, 1) for entry in
        [("gencourse", seed, [60]), ("peer", seed, [20, 60]), ("gencourse", seed, [20])]
    ]
    line = '{"recipe": "peer", "seed": 0, "marks": [20, 60], "results": []}\n'
    (tmp_path / "runs.jsonl").write_text(line + line[:30])  # torn by an interruption
    done = [(x["recipe"], x["seed"], x["marks"]) for x in quality.finished(tmp_path)]
    assert done == [wanted[1]]
