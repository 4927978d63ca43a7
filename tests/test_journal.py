"""What a run writes down while it trains."""

import copy
import dataclasses

import torch

from facegan.networks import build_discriminator
from facegan.recipes import load
from facegan.train.journal import normalised_by_batch


def test_batch_normalised_networks_score_as_in_training_and_keep_their_running_statistics() -> None:
    torch.manual_seed(0)
    critic = build_discriminator(dataclasses.replace(load("dcgan-64"), ndf=4)).train()
    images = torch.randn(8, 3, 64, 64)
    twin = copy.deepcopy(critic)
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    with torch.no_grad(), normalised_by_batch(critic.eval()):
        scores = critic(images)
    assert torch.equal(scores, twin(images))
    assert not torch.allclose(scores, critic(images))
    assert all(torch.equal(value, before[name]) for name, value in critic.state_dict().items())
