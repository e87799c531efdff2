"""What can be chosen both in Python and on the command line, declared without importing anything heavy."""

from typing import Literal

Method = Literal["auto", "closed-form", "gradient"]
FitMethod = Literal["auto", "closed-form"]
SplitBy = Literal["query", "document"]
Precision = Literal["fp32", "bf16", "fp16"]

# What duplicate finders for encoders of this kind start from (semhash: 0.9). Set high on purpose: dropping a query that
# only resembles another costs a label for nothing, while a looser paraphrase that goes uncounted is still a new query.
PARAPHRASE_THRESHOLD = 0.9
