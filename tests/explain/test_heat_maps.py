import pytest

from densekit.explain.heat_maps import METHODS, heat_maps


@pytest.mark.parametrize("method", METHODS)
def test_lights_the_corner_that_holds_the_class(corner_classifier, corner_world, method):
    pictures, classes, _ = corner_world
    assert (corner_classifier.probabilities(pictures).argmax(1) == classes).all()
    maps = heat_maps(corner_classifier, pictures, classes, method=method)
    assert maps.shape == (16, 32, 32)
    share = corner_world.share(maps)
    print(method, share)
    assert share.min() > 0.6  # a quarter would be chance
    assert share.mean() > 0.8
