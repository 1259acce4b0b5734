"""What makes a model good: lm-eval tasks, their items and splits, and one number from their scores.

Importing this package loads neither torch nor lm-eval.
"""

from evomerge.fitness.evaluator import Evaluator
from evomerge.fitness.items import ItemSet, Measure
from evomerge.fitness.objectives import Fitness
from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.fitness.spec import FitnessSpec, SplitSpec, TaskSpec
from evomerge.fitness.task_info import TaskInfo

__all__ = [
    "Evaluator",
    "Fitness",
    "FitnessSpec",
    "ItemScore",
    "ItemSet",
    "Measure",
    "Scores",
    "Split",
    "SplitSpec",
    "TaskInfo",
    "TaskScore",
    "TaskSpec",
]
