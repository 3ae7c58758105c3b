import torch

from densekit.report.confusion import Cell, confusion_cells, most_confused, places_behind

CONFUSION = ((5, 2, 0), (0, 0, 0), (3, 0, 1))  # class 1 has no pictures


def test_cells_hold_the_mistakes_first():
    assert confusion_cells(CONFUSION) == [
        Cell(2, 0, 3, 3 / 4),
        Cell(0, 1, 2, 2 / 7),
        Cell(0, 0, 5, 5 / 7),
        Cell(2, 2, 1, 1 / 4),
    ]


def test_classes_with_the_most_mistakes_given_or_got():
    assert most_confused(CONFUSION, 2) == [0, 2]  # 5, 2 and 3 mistakes
    assert most_confused(CONFUSION, 10) == [0, 1, 2]
    assert most_confused(((50, 1, 0), (0, 3, 2), (0, 0, 9)), 2) == [1, 2]  # right answers are no mistakes


class TestPlacesBehind:
    labels = torch.tensor([0, 0, 0, 0, 1])
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    cells = (Cell(0, 1, 3, 0.75), Cell(0, 0, 1, 0.25), Cell(1, 1, 1, 1.0))

    def chosen(self, **most: int) -> list[list[int]]:
        return list(places_behind(self.cells, self.probabilities, self.labels, **most).values())

    def test_surest_first(self):
        assert self.chosen(most_a_cell=9, most=99) == [[2, 3, 1], [0], [4]]

    def test_bounds(self):
        assert self.chosen(most_a_cell=2, most=99) == [[2, 3], [0], [4]]

    def test_every_cell_gets_one_before_any_gets_two(self):
        assert self.chosen(most_a_cell=9, most=4) == [[2, 3], [0], [4]]
        assert self.chosen(most_a_cell=9, most=2) == [[2], [0]]
