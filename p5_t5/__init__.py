"""P5 as a Hugging Face recommender: one T5, personalized prompts, items decoded as tokens.

Importing the package registers the model with the Auto classes and the task with
``transformers.pipeline``, so that ``pipeline("p5-recommend", model=FOLDER)`` works.
"""

from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration
from p5_t5.pipeline import P5RecommendPipeline

__all__ = ["P5Config", "P5ForConditionalGeneration", "P5RecommendPipeline"]
__version__ = "0.1.0"
