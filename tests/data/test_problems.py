"""What is wrong with a dataset is said once, in one form, and stops a loader only when it is asked to."""

import pytest

from pyface.data.problems import Problem, Problems
from pyface.errors import DataError, ValueRangeError


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("a.png", None, "empty", "has zero bytes"), "a.png: has zero bytes"),
        (Problem("list.txt", 7, "row", "has 3 cells"), "list.txt line 7: has 3 cells"),
        (Problem("a.png", 7, "row", "is 2", "list.txt"), "a.png (list.txt line 7): is 2"),
        (Problem("a.png", None, "row", "is 2", "list.npy"), "a.png (list.npy): is 2"),
        (Problem("", None, "empty", "has no picture"), "has no picture"),
    ],
)
def test_a_problem_as_text(problem, text):
    assert str(problem) == text


def test_stop_lists_the_first_twenty_and_counts_the_others():
    problems = Problems("faces", advice="Repair it.")
    problems.settle()
    for i in range(23):
        problems.add(f"{i:02d}.png", i + 1, "empty", "has zero bytes", "list.txt")
    with pytest.raises(DataError) as caught:
        problems.settle("23 of 40 pictures")
    text = str(caught.value)
    assert text.startswith(
        "23 of 40 pictures of faces cannot be used: 00.png (list.txt line 1): has zero bytes;"
    )
    assert "19.png" in text
    assert "20.png" not in text
    assert text.endswith("; and 3 more. Repair it.")
    assert problems.message().startswith("23 problems in faces")


def test_skip_goes_on_and_keeps_the_list():
    problems = Problems("faces", on_problem="skip")
    problems.extend([Problem("a.png", None, "size", "is large"), Problem("", None, "labels", "are odd")])
    problems.settle()
    assert (len(problems), problems.files()) == (2, {"a.png"})


def test_another_word_is_refused():
    with pytest.raises(ValueRangeError, match="on_problem must be"):
        Problems("faces", on_problem="ignore")
