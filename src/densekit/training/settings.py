"""Every choice of a training run, typed, described and checked; torch is not needed to read or check them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from densekit.data.settings import Augmentation, DataSettings
from densekit.errors import CheckpointError, SettingsError, UnknownNameError

Pixels = Annotated[int, Field(ge=1, le=16384)]

_RECIPES = Path(__file__).with_name("recipes")
_ELSEWHERE = {
    "learning_rate": "lr",
    "bs": "batch_size",
    "wd": "weight_decay",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "img_size": "size",
    "image_size": "size",
    "grad_clip": "clip",
    "amp": "precision",
    "seeds": "seed",
    "pretrained": "weights='imagenet'",
    "in_chans": "channels",
    "in_channels": "channels",
    "quiet": "screen=Screen(quiet=True)",
    "verbose": "screen=Screen(quiet=True)",
}
_DEFAULTS = {"sgd": (0.1, 5e-4), "adam": (1e-3, 0.0), "adamw": (1e-3, 0.05)}  # learning rate, weight decay


class TrainSettings(Augmentation, DataSettings):
    """Settings of one training run; the run folder keeps them in settings.yaml."""

    model: str | None = Field(
        None,
        description="a name from `densekit models`, or timm:NAME "
        "[densenet121; densenet12_wide_cifar for pictures up to 64 px]",
    )
    model_options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the network, e.g. --model-options.growth-rate 24"
    )

    weights: str | None = Field(
        None,
        description="start from trained weights: imagenet, a name from `densekit models --weights`, "
        "hf-hub:owner/name, a run folder or a checkpoint file",
    )
    freeze_epochs: NonNegativeInt = Field(0, description="epochs at the start in which only the head is trained")
    backbone_lr_factor: float = Field(
        1.0, gt=0, le=1, description="learning rate of everything but the head, as a share of --lr"
    )
    freeze_bn: bool = Field(
        False, description="batch norms keep the mean and variance that came with the weights, also in training"
    )

    size: Pixels | tuple[Pixels, Pixels] | None = Field(
        None, description="pixels: one number, or HEIGHTxWIDTH [the data's own, at most 224]"
    )
    channels: Literal[1, 3] | None = Field(None, description="1 grey, 3 RGB [as the pictures are]")
    resize: Literal["squash", "crop"] = Field(
        "squash", description="squash: stretch to size; crop: keep proportions and crop the centre"
    )
    mean: tuple[float, ...] | None = Field(
        None, description="subtracted from pixel values in 0..1 [known for the data set, or measured]"
    )
    std: tuple[PositiveFloat, ...] | None = Field(None, description="pixel values are divided by it [like mean]")

    epochs: PositiveInt = Field(20, description="passes over the training pictures")
    batch_size: int = Field(64, ge=2, description="pictures per step (and GPU)")
    accumulate: PositiveInt = Field(
        1, description="process each batch in this many parts: the same step in less memory"
    )
    optimizer: Literal["sgd", "adam", "adamw"] | None = Field(
        None, description="optimization algorithm [sgd; adam for simple_cnn, adamw for networks without batch norm]"
    )
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] | None = Field(
        None, description="peak learning rate; auto searches for one [sgd 0.1, adam and adamw 0.001]"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    nesterov: bool = Field(True, description="Nesterov momentum in sgd")
    weight_decay: float | None = Field(
        None, ge=0, description="weight decay, of all weights [sgd 0.0005, adam 0, adamw 0.05]"
    )
    schedule: Literal["constant", "step", "multistep", "cosine", "one-cycle"] = Field(
        "one-cycle", description="learning-rate schedule"
    )
    warmup: float = Field(
        0.0, ge=0, description="epochs of linear warm-up [one-cycle: a fifth of the epochs if this is 0]"
    )
    step_every: PositiveInt = Field(30, description="epochs between the drops of schedule step")
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.75), description="where schedule multistep drops the rate, as shares of the epochs"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each drop of step and multistep")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of an average of the weights, which replaces the last ones"
    )
    clip: PositiveFloat | None = Field(None, description="largest norm of the gradient")
    class_balance: Literal["none", "loss", "sampler"] = Field(
        "none", description="compensate for rare classes, by weights in the loss or by drawing them more often"
    )
    thresholds: Literal["half", "f1"] = Field(
        "half",
        description="several labels per picture: answer each label above a probability of a half, or above the one "
        "with the best F1 on the validation pictures",
    )
    early_stopping: PositiveInt | None = Field(
        None,
        description="stop after this many epochs without a better validation accuracy (several labels: mean "
        "average precision), or an equal one with a lower loss",
    )

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the hardware computes in it, else fp32"
    )
    channels_last: bool = Field(True, description="memory layout that is faster on most hardware")
    compile: bool = Field(
        False, description="compile the network, with stock dense blocks: faster on a GPU, slower on a CPU"
    )
    fused: bool = Field(True, description="run dense blocks fused where that is faster: same results, less memory")
    deterministic: bool = Field(False, description="use only operations that give the same bits every time")
    workers: NonNegativeInt | Literal["auto"] = Field("auto", description="processes that load pictures")
    memory_gib: float = Field(
        1.0,
        ge=0,
        description="keep pictures in memory up to this size, decoded and (without random-resized-crop) resized",
    )
    log_every: PositiveInt = Field(50, description="steps between two lines if there is no progress bar")
    tensorboard: bool = Field(True, description="also write TensorBoard files")

    @field_validator("size", mode="before")
    @classmethod
    def _height_by_width(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not re.fullmatch(r"\d+(x\d+)?", value):
            raise ValueError("give pixels, or HEIGHTxWIDTH such as 96x128")
        return tuple(value.split("x")) if "x" in value else value

    @model_validator(mode="before")
    @classmethod
    def _plain_values(cls, values: Any) -> Any:
        # the command line hands model options over as text; JSON spells numbers, lists, true and null
        if isinstance(values, Mapping) and isinstance(values.get("model_options"), Mapping):
            options = {name.replace("-", "_"): _parse(v) for name, v in values["model_options"].items()}
            return {**values, "model_options": options}
        return values

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.class_balance == "loss" and self.mixes:
            raise ValueError("class_balance=loss does not go with mixup or cutmix; use class_balance=sampler")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std: give both or neither")
        if taken := {"num_classes", "in_channels"} & self.model_options.keys():
            raise ValueError(f"model_options: {taken.pop()} follows from the pictures; --channels sets in_channels")
        if self.weights is None:
            for name in ("freeze_epochs", "backbone_lr_factor", "freeze_bn"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is for trained weights, and there are none: give --weights")
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup={self.warmup} epochs leaves nothing of {self.epochs} epochs")
        return self

    def with_optimizer_defaults(self) -> "TrainSettings":
        """Return these settings with the optimizer's usual learning rate and weight decay where none is given."""
        optimizer = self.optimizer or "sgd"
        lr, weight_decay = _DEFAULTS[optimizer]
        chosen = {
            "optimizer": optimizer,
            "lr": lr if self.lr is None else self.lr,
            "weight_decay": weight_decay if self.weight_decay is None else self.weight_decay,
        }
        return self.model_copy(update=chosen)

    def to_yaml(self) -> str:
        """Return the settings as YAML, each below its description."""
        import yaml

        lines = []
        for name, value in self.model_dump(mode="json").items():
            description = type(self).model_fields[name].description
            lines += [f"# {description}"] if description else []
            text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
            value_only = text.removesuffix("...\n").rstrip()
            lines.append(f"{name}: {value_only}")
        return "\n".join(lines) + "\n"


def make_settings(recipe: str | None = None, **given: Any) -> TrainSettings:
    """Settings from a recipe and further ones, which win.

    Args:
        recipe: a name from `list_recipes`, the path of a YAML file, or None.
        given: settings by name.

    Raises:
        SettingsError: an unknown or impossible setting; one line says which.
        UnknownNameError: no recipe of that name.

    >>> make_settings(epochs=3, optimizer="adam").with_optimizer_defaults().lr
    0.001
    """
    return validate({**(load_recipe(recipe) if recipe else {}), **given})


def validate(values: Mapping[str, Any]) -> TrainSettings:
    """Check settings; what pydantic finds becomes one line.

    Raises:
        SettingsError: an unknown or impossible setting.
    """
    try:
        return TrainSettings.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(one_line(error)) from None


def one_line(error: ValidationError, model: type[BaseModel] = TrainSettings) -> str:
    """Return the first thing that pydantic found wrong with the values of ``model``, as one line for people."""
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")  # a typo explains what is missing
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return str(UnknownNameError("setting", name, sorted(model.model_fields), _ELSEWHERE))
    return f"{name}={first['input']!r}: {message[0].lower()}{message[1:]}"


def list_recipes() -> list[str]:
    """Return the names of the recipes that come with densekit."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> dict[str, Any]:
    """Return the settings that a recipe names.

    Args:
        name: a name from `list_recipes`, or the path of a YAML file.

    Raises:
        UnknownNameError: neither.
        SettingsError: the file is no YAML mapping of settings.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        if name not in list_recipes():
            raise UnknownNameError("recipe", name, list_recipes())
        path = _RECIPES / f"{name}.yaml"
    return read_mapping(path, SettingsError)


def describe_recipe(name: str) -> str:
    """Return the first line of a recipe, a comment that says what it is for."""
    return (_RECIPES / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def read_settings(path: Path) -> TrainSettings:
    """Read a run's settings.yaml.

    Raises:
        CheckpointError: no such file, or not one that densekit wrote.
    """
    values = read_mapping(path, CheckpointError)
    try:
        return validate(values)
    except SettingsError as error:
        raise CheckpointError(f"{path} does not hold the settings of a run: {error}") from None


def read_mapping(path: Path, error_type: type[Exception]) -> dict[str, Any]:
    """Read a YAML file that must hold names with values; else raise ``error_type``, which says what it holds."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise error_type(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise error_type(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise error_type(f"{path} does not contain settings: expected lines of NAME: VALUE")
    return values


def _parse(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for read in (json.loads, float):  # JSON has no .5
        try:
            return read(value)
        except ValueError:
            continue
    return value
