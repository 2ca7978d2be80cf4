"""Training of recommenders."""

from genrec.training.config import TrainingConfig
from genrec.training.trainer import RecommenderTrainer, train_model

__all__ = ["RecommenderTrainer", "TrainingConfig", "train_model"]
