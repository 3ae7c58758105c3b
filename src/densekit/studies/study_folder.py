"""The folder of a study or search: its files, and ordinary run folders in runs/."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from densekit.files import write_text


@dataclass(frozen=True)
class StudyFolder:
    """Names of the files of a study."""

    path: Path

    @property
    def plan(self) -> Path:
        """What is compared or searched, as YAML."""
        return self.path / "study.yaml"

    @property
    def results(self) -> Path:
        """A line for each finished run."""
        return self.path / "results.csv"

    @property
    def plot(self) -> Path:
        """The results as a picture."""
        return self.path / "study.png"

    @property
    def database(self) -> Path:
        """Where a search remembers its trials, unless it shares a database with others."""
        return self.path / "trials.sqlite"

    @property
    def best(self) -> Path:
        """Settings of a search's best trial, a recipe."""
        return self.path / "best.yaml"

    def run(self, name: str) -> Path:
        """Folder of one training run."""
        return self.path / "runs" / name


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write study.yaml."""
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
