"""Train a model on each data set with default settings, and keep the model card that is written for it.

Writes model_cards/<model>.md. The models themselves stay in --output-dir, if one is given, from where
``st-adapter push`` uploads them.

    python scripts/build_models.py                       # ../shared/data/* if there, and the demo's data
    python scripts/build_models.py --output-dir models
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmark_quality import ROOT, default_folders

from st_adapter import RetrievalDataset, train
from st_adapter.demo import MODEL_ID, demo_model, standard_library_dataset
from st_adapter.running.settings import RunOptions
from st_adapter.saving.folder import card_of
from st_adapter.storage.writing import write_text

CARDS = ROOT / "model_cards"
SCRIPT = "scripts/build_models.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="*", type=Path, help="folders with corpus, queries and qrels")
    parser.add_argument("--output-dir", type=Path, help="where the models stay; nowhere if not given")
    arguments = parser.parse_args()
    folders = arguments.data if arguments.data is not None else default_folders()
    model = demo_model()
    with tempfile.TemporaryDirectory() as temporary:
        for folder in [*folders, None]:
            dataset = standard_library_dataset() if folder is None else RetrievalDataset.load(str(folder))
            name = f"{MODEL_ID.rpartition('/')[2]}-{dataset.name.lower().replace(' ', '-')}"
            output_dir = (arguments.output_dir or Path(temporary)) / name
            result = train(model, dataset, output_dir=output_dir, options=RunOptions(script=SCRIPT))
            print(f"{name}: {result.verdict}")
            if result.model_dir is None or not result.verdict.adopted:
                (CARDS / f"{name}.md").unlink(missing_ok=True)
                continue
            write_text(CARDS / f"{name}.md", card_of(result.model_dir, name))


if __name__ == "__main__":
    main()
