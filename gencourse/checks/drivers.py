"""How a learner's answer is called, where a plain call with the inputs would not show enough.

A function here has the name of an exercise, gets the learner's answer and one case's inputs, and
returns what is compared: the weights after a training step, the mean of many draws. These run
beside the learner's code, in the sandbox too, so they hold no answer and import nothing of the
course.
"""


def plain_call(answer, case):
    """What every exercise without a function of its own uses."""
    return answer(*case.values())
