"""Answers that others would give: right ones in unusual forms, wrong ones that have no name.

tests/answers/chapter_NN.py holds, for the exercises of its chapter,
    RIGHT = {exercise: {label: function}}
    WRONG = {exercise: {label: (function, part of the sentence that is said)}}
"""

import importlib.util
from pathlib import Path

import pytest

from gencourse.checks import core

SEEDS = (0, 7)  # 0 is the notebook's; grading draws its own. Of wrong answers 0 must do.


def tables():
    """RIGHT and WRONG of all chapters."""
    right, wrong = {}, {}
    for path in sorted((Path(__file__).parent / "answers").glob("chapter_*.py")):
        spec = importlib.util.spec_from_file_location(f"answers_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        right |= module.RIGHT
        wrong |= module.WRONG
    return right, wrong


RIGHT, WRONG = tables()


def rows(table):
    return [pytest.param(core.exercises()[name], answer, id=f"{name}: {label}")
            for name, answers in table.items() for label, answer in answers.items()]


def verdict(exercise, answer, seed):
    return exercise.judge(exercise.outcomes(answer, seed), seed)


@pytest.mark.parametrize(("exercise", "answer"), rows(RIGHT))
def test_a_right_answer_in_another_form_passes(exercise, answer):
    for seed in SEEDS:
        found = verdict(exercise, answer, seed)
        assert found.passed, f"{found.sentence} {found.detail}"


@pytest.mark.filterwarnings("ignore")  # wrong answers warn, and rightly
@pytest.mark.parametrize(("exercise", "answer"), rows(WRONG))
def test_a_wrong_answer_is_told_what_is_wrong(exercise, answer):
    function, part = answer
    found = verdict(exercise, function, SEEDS[0])
    assert not found.passed
    assert part in found.sentence, f"{found.sentence} {found.detail}"
