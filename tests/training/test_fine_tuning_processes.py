"""Two processes, a backbone that is frozen at first: both end with the same weights, and all of them have learned."""

import torch
from safetensors.torch import load_file

from densekit.models.catalogue import create_model
from densekit.models.weights import save_model

SCRIPT = """
import torch
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_forward_pre_hook
networks = []
def note(module, args):
    if hasattr(module, "architecture"):
        networks.append(module)
register_module_forward_pre_hook(note)
from densekit.training.train import train
train(out=out, **settings)
rank = torch.distributed.get_rank()
trained = {name: value.detach().contiguous() for name, value in networks[0].named_parameters()}
save_file(trained, f"{out}-{rank}.safetensors")
torch.distributed.destroy_process_group()
"""


def test_both_processes_learn_the_same_when_the_backbone_is_freed(tiny, run_in_two_processes, tmp_path):
    network = create_model(tiny["model"], num_classes=10, in_channels=1, **tiny["model_options"])
    save_model(tmp_path / "weights", network)
    settings = {**tiny, "limit_per_class": 4, "batch_size": 8, "lr": 0.1, "val_fraction": 0}
    settings |= {"weights": str(tmp_path / "weights"), "freeze_epochs": 1, "epochs": 2}
    run_in_two_processes(SCRIPT, {"settings": settings, "out": str(tmp_path / "run")})
    first, second = (load_file(tmp_path / f"run-{rank}.safetensors") for rank in (0, 1))
    for name, value in network.named_parameters():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        assert not torch.equal(first[name], value.detach()), f"{name} has not learned"
