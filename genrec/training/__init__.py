"""Training of recommenders."""

from genrec.training.config import TrainingConfig
from genrec.training.sharding import as_launched
from genrec.training.trainer import RecommenderTrainer, train_model

__all__ = ["RecommenderTrainer", "TrainingConfig", "as_launched", "train_model"]
