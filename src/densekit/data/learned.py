"""What a classifier has learned from: its pictures, under whatever names, and the groups that they are of."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from densekit.console import Screen
from densekit.data.duplicates import digest_files
from densekit.data.folders import natural_key
from densekit.data.picture_set import PictureSet, before_pictures
from densekit.units import counted, some


@dataclass(frozen=True)
class Learned:
    """What has been learned from: hash of each picture -> its name, and the names of the groups that they are of."""

    pictures: dict[str, str] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)

    def __add__(self, other: "Learned") -> "Learned":
        return Learned(self.pictures | other.pictures, self.groups | other.groups)

    def among(self, digests: Sequence[str]) -> list[tuple[str, int]]:
        """Return (name, place) of each picture, given by its hash, that was learned from, under whatever name."""
        return [(self.pictures[digest], place) for place, digest in enumerate(digests) if digest in self.pictures]


def digest_pictures(tested: PictureSet, screen: Screen) -> list[str]:
    """Return the hashes of pictures by which `Learned` knows them; none of those that are no files."""
    if isinstance(tested.pictures, np.ndarray):
        return []
    return digest_files(tested.pictures, screen, f"comparing the {before_pictures(tested.split)}pictures")


def tell_learned_groups(learner: str, groups: set[str], tested: PictureSet, screen: Screen) -> None:
    """Warn where pictures to validate or test on are of groups, such as patients, that were learned from."""
    names = [] if tested.groups is None else tested.groups.tolist()
    if both := groups & set(names):
        which = counted(sum(name in both for name in names), "picture is", "pictures are")
        screen.warn(
            f"{which} of groups (by their names) that {learner} was trained on too, which flatters the figures of the "
            f"{before_pictures(tested.split)}pictures: {some(sorted(both, key=natural_key))}"
        )
