"""Texts to a folder of vectors: whole, gone on with after a death, or one clear error."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from sentence_transformers import SentenceTransformer

from elsewhere import CONTEXT, embed_slowly, run_elsewhere, started_elsewhere, write_alone
from st_adapter.data.texts import TextSource
from st_adapter.embeddings import local_engine
from st_adapter.embeddings.disk_corpus import DiskCorpus
from st_adapter.embeddings.embed_folder import FolderSettings, embed_to_folder
from st_adapter.embeddings.encoder import Encoder, SentenceTransformerEncoder
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.local_engine import LocalEngine, embed_here
from st_adapter.embeddings.part_writer import PartWriter
from st_adapter.embeddings.ray_engine import RayEngine
from st_adapter.errors import InputError
from st_adapter.storage.manifest import Manifest, only_writer
from st_adapter.storage.vector_parts import write_part
from st_adapter.stores.folder import VectorFolder

WORDS = ["red", "blue", "old", "new", "car", "house", "river", "book"]
TEXTS = [f"{one} {two} {number}" for number, (one, two) in enumerate((a, b) for a in WORDS for b in WORDS)]
IDS = [f"d{number}" for number in range(len(TEXTS))]
TABLE = pd.DataFrame({"id": IDS, "text": TEXTS})
QUIET = {"show_progress_bar": False}


@pytest.fixture(scope="module")
def model(tiny_flat_model_path):
    return SentenceTransformer(str(tiny_flat_model_path), device="cpu")


@pytest.fixture(scope="module")
def vectors(model):
    return model.encode_document(TEXTS)


@pytest.fixture
def started_at_once(monkeypatch):
    """Processes of the engine begin where the libraries have been imported."""
    monkeypatch.setattr(local_engine, "_CONTEXT", CONTEXT)


def made(model, folder, table=TABLE, part="corpus", columns=None, **settings):
    return embed_to_folder(model, TextSource(table, part, columns or {}), folder, FolderSettings(**QUIET, **settings))


def everything(folder):
    return list(folder.ids), folder.rows(np.arange(folder.count))


# Whole


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_any_tool_reads_what_was_embedded(dtype, model, vectors, tmp_path):
    folder = made(model, tmp_path / "v", dtype=dtype, part_size=10)
    table = pq.read_table(tmp_path / "v").to_pandas()
    assert table["id"].tolist() == IDS and list(folder.ids) == IDS
    matrix = np.stack(table["embedding"].tolist())
    assert matrix.dtype == dtype and np.array_equal(matrix, vectors.astype(dtype))
    assert np.array_equal(folder.rows(np.arange(64)), vectors.astype(dtype).astype(np.float32))
    schema = pq.read_schema(next((tmp_path / "v").glob("*.parquet")))
    assert schema.field("embedding").type.list_size == 32
    manifest = Manifest.read(tmp_path / "v")
    assert (manifest.count, manifest.dimension, manifest.dtype, manifest.role) == (64, 32, dtype, "document")
    assert manifest.normalized and not list((tmp_path / "v").glob(".part*"))


def test_queries_get_their_own_prompt(tiny_prompt_model_path, tmp_path):
    model = SentenceTransformer(str(tiny_prompt_model_path), device="cpu")
    table = pd.DataFrame({"qid": IDS, "question": TEXTS})
    folder = made(model, tmp_path / "v", table, "queries")
    assert np.allclose(everything(folder)[1], model.encode_query(TEXTS), atol=1e-6)
    assert (folder.manifest.role, folder.manifest.prompt) == ("query", "query: ")


def test_files_are_read_one_after_the_other(model, vectors, tmp_path):
    (tmp_path / "data").mkdir()
    TABLE[:20].to_parquet(tmp_path / "data" / "a.parquet")
    TABLE[20:].to_json(tmp_path / "data" / "b.jsonl", orient="records", lines=True)
    folder = embed_to_folder(
        model, TextSource(tmp_path / "data", "corpus"), tmp_path / "v", FolderSettings(**QUIET, part_size=16)
    )
    assert everything(folder)[0] == IDS and np.allclose(everything(folder)[1], vectors, atol=1e-6)
    # Parts do not end where files do.
    assert [part.count for part in folder.parts] == [16, 16, 16, 16]


def test_of_a_data_set_in_beir_form_one_side_is_taken(model, tmp_path):
    TABLE[:20].to_json(tmp_path / "corpus.jsonl", orient="records", lines=True)
    pd.DataFrame({"_id": ["q"], "text": ["where"]}).to_json(tmp_path / "queries.jsonl", orient="records", lines=True)
    for part, ids in (("corpus", IDS[:20]), ("queries", ["q"])):
        folder = embed_to_folder(model, TextSource(tmp_path, part), tmp_path / f"v-{part}", FolderSettings(**QUIET))
        assert list(folder.ids) == ids


# After a death


@dataclass(frozen=True)
class Deadly(PartWriter):
    """Kills the process that it is in, once."""

    killed: Path = Path()

    def embed(self, *given):
        if not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(*given)


def test_a_process_that_is_killed_costs_the_parts_in_work(model, vectors, tmp_path, started_at_once):
    def engine(encoder, writer, chunks, progress):
        deadly = Deadly(writer.folder, writer.role, writer.dtype, tmp_path / "killed")
        LocalEngine(2)(encoder, deadly, chunks, progress)

    folder = made(model, tmp_path / "v", TABLE, part_size=5, engine=engine)
    assert (tmp_path / "killed").exists() and not list((tmp_path / "v").glob(".part*"))
    assert everything(folder)[0] == IDS and np.allclose(everything(folder)[1], vectors, atol=1e-6)


@dataclass(frozen=True)
class Failing(PartWriter):
    """Fails on the first texts, dies on them, or works on others for longer than anybody waits."""

    dies: bool = False

    def embed(self, encoder, chunk, *given):
        if chunk.row:
            time.sleep(1000)
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        raise InputError("It fails.", python="Pass another.", flags="Add --another.")


@pytest.mark.parametrize(("dies", "error"), [(False, InputError), (True, ChildProcessError)])
def test_nobody_waits_for_the_parts_in_work_when_one_has_failed(dies, error, model, tmp_path, started_at_once):
    def engine(encoder, writer, chunks, progress):
        LocalEngine(2)(encoder, Failing(writer.folder, writer.role, writer.dtype, dies), chunks, progress)

    with pytest.raises(error, match="It fails. Pass another." if not dies else "died 3 times with the same texts"):
        made(model, tmp_path / "v", TABLE, part_size=5, engine=engine)
    assert not list((tmp_path / "v").glob("part-*"))


# A module whose engine has two processes, which write down their numbers and take their time.
SLOW = """
import os, pathlib, time
from st_adapter.embeddings.local_engine import LocalEngine
from st_adapter.embeddings.part_writer import PartWriter

class Slow(PartWriter):
    def embed(self, *given):
        pathlib.Path(f"work-{os.getpid()}").touch()
        time.sleep(1000)

def engine(encoder, writer, chunks, progress):
    LocalEngine(2)(encoder, Slow(writer.folder, writer.role, writer.dtype), chunks, progress)
"""
SCRIPT = """
def main():
    from sentence_transformers import SentenceTransformer
    from st_adapter.data import TextSource
    from st_adapter.embeddings import FolderSettings, LocalEngine, embed_to_folder

    model = SentenceTransformer(MODEL, device="cpu")
    # What is sent to a process is more than a pipe holds.
    model.more = "x" * 10**6
    settings = FolderSettings(part_size=4, engine=ENGINE, show_progress_bar=False)
    embed_to_folder(model, TextSource("texts.parquet", "corpus"), "v", settings)
"""


def script(folder, model_path, last_lines, engine):
    """A file with that script and some last lines, beside the texts."""
    TABLE.to_parquet(folder / "texts.parquet")
    (folder / "slow.py").write_text(SLOW)
    text = SCRIPT.replace("MODEL", repr(str(model_path))).replace("ENGINE", engine)
    (folder / "script.py").write_text(text + last_lines)
    return [sys.executable, "script.py"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks up processes in /proc")
@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tiny_flat_model_path, tmp_path):
    guarded = 'if __name__ == "__main__":\n    main()\n'
    words = script(tmp_path, tiny_flat_model_path, guarded, "__import__('slow').engine")
    with subprocess.Popen(words, cwd=tmp_path) as run:
        wait_until(lambda: len(list(tmp_path.glob("work-*"))) == 2)
        run.kill()
    workers = [int(path.name.removeprefix("work-")) for path in tmp_path.glob("work-*")]
    wait_until(lambda: not any(map(is_running, workers)))


@pytest.mark.slow
def test_a_script_that_each_process_begins_anew_is_one_error(tiny_flat_model_path, tmp_path):
    words = script(tmp_path, tiny_flat_model_path, "main()\n", "LocalEngine(2)")
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1 and ended.stderr.count("Traceback") == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("ChildProcessError: Processes that embed cannot be started: each imports the script")


def wait_until(happened, seconds=100):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(process):
    # One that has ended, and that nobody has asked about yet, is still listed.
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_run_that_was_killed_goes_on_where_it_was(tiny_flat_model_path, model, vectors, tmp_path, monkeypatch):
    TABLE.to_parquet(tmp_path / "texts.parquet")
    output = tmp_path / "v"
    run = started_elsewhere(embed_slowly, tiny_flat_model_path, tmp_path / "texts.parquet", output)
    while len(list(output.glob("part-*"))) < 3:
        assert run.is_alive()
        time.sleep(0.02)
    with pytest.raises(ValueError, match="Another process writes to"):
        made(model, output, part_size=4)
    run.kill()
    run.join()
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert 3 <= len(before) < 16
    with pytest.raises(ValueError, match="but it is not finished. Run st-adapter embed again"):
        VectorFolder(output)
    asked = []
    encode = SentenceTransformerEncoder.encode_document
    monkeypatch.setattr(
        SentenceTransformerEncoder, "encode_document", lambda self, texts: asked.extend(texts) or encode(self, texts)
    )
    (output / ".part-000000000099-x.parquet.abcd").touch()
    folder = made(model, output, part_size=4)
    assert everything(folder)[0] == IDS and np.allclose(everything(folder)[1], vectors, atol=1e-6)
    # Nothing twice, nothing lost.
    assert sorted(asked) == sorted(TEXTS[4 * len(before) :])
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    assert not list(output.glob(".part*"))


def test_parts_that_are_missing_in_the_middle_are_embedded_again_in_their_places(model, vectors, tmp_path):
    made(model, tmp_path / "v", part_size=10)
    parts = sorted((tmp_path / "v").glob("part-*"))
    for number in (1, 2, 4):
        parts[number].unlink()
    with pytest.raises(ValueError, match="holds 34 vectors, but it held 64"):
        VectorFolder(tmp_path / "v")
    folder = made(model, tmp_path / "v", part_size=16)
    assert everything(folder)[0] == IDS and np.allclose(everything(folder)[1], vectors, atol=1e-6)
    assert [part.count for part in folder.parts] == [10, 16, 4, 10, 10, 10, 4]


def test_new_documents_are_added(model, tmp_path):
    made(model, tmp_path / "v", TABLE[:40])
    asked = []

    def counted(encoder, writer, chunks, progress):
        embed_here(encoder, writer, (asked.append(chunk) or chunk for chunk in chunks), progress)

    folder = made(model, tmp_path / "v", engine=counted)
    assert list(folder.ids) == IDS and [chunk.ids for chunk in asked] == [IDS[40:]]
    made(model, tmp_path / "v", engine=counted)
    assert len(asked) == 1


def test_texts_that_changed_under_their_ids_are_refused(model, tmp_path):
    made(model, tmp_path / "v", TABLE[:40], part_size=10)
    other = TABLE.assign(text=[f"{text} now" if 10 <= row < 15 else text for row, text in enumerate(TEXTS)])
    with pytest.raises(ValueError, match="vectors for 5 ids whose texts are no longer .*: 'd10', 'd11', 'd12', "):
        made(model, tmp_path / "v", other)
    # A title is a part of the text.
    titled = TABLE.assign(title=["" if row else "Cars" for row in range(64)])
    with pytest.raises(ValueError, match="vectors for 1 id whose texts are no longer those that were embedded: 'd0'"):
        made(model, tmp_path / "v", titled)
    assert list(made(model, tmp_path / "v").ids) == IDS


def test_parts_of_earlier_versions_are_gone_on_with(model, vectors, tmp_path):
    made(model, tmp_path / "v", TABLE[:40], part_size=40)
    (part,) = (tmp_path / "v").glob("part-*")
    write_part(part, IDS[:40], vectors[:40], True)
    manifest = json.loads((tmp_path / "v" / "_vectors.json").read_text())
    assert manifest.pop("precision") == "fp32"
    (tmp_path / "v" / "_vectors.json").write_text(json.dumps(manifest))
    assert VectorFolder(tmp_path / "v").notes == ()
    folder = made(model, tmp_path / "v", TABLE.assign(text=[*TEXTS[1:], "old"]))
    assert list(folder.ids) == IDS and np.array_equal(folder.rows(np.arange(40)), vectors[:40])
    (note,) = folder.notes
    assert note.startswith("40 vectors in") and "whether their texts have changed" in note
    half = SentenceTransformerEncoder(model, precision="bf16")
    assert made(half, tmp_path / "v", TABLE.assign(text=[*TEXTS[1:], "old"])).count == 64


def test_a_run_that_embedded_nothing_binds_no_other_one(model, tmp_path):
    def broken(*given):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        made(model, tmp_path / "v", dtype="float16", engine=broken)
    assert made(model, tmp_path / "v").manifest.dtype == "float32"


def test_an_engine_is_asked_before_anything_is_read_or_written(model, tmp_path):
    class Unwilling:
        def check(self, encoder):
            raise RuntimeError(encoder.dimension)

    with pytest.raises(RuntimeError, match="32"):
        embed_to_folder(model, TextSource("nowhere", "corpus"), tmp_path / "v", FolderSettings(engine=Unwilling()))
    assert not (tmp_path / "v").exists()


def test_empty_texts_are_counted(model, tmp_path):
    table = TABLE.assign(text=["", " ", *TEXTS[2:]])
    folder = made(model, tmp_path / "v", table)
    assert folder.count == 62 and folder.notes == ("2 documents without text left out.",)
    table[2:].to_parquet(tmp_path / "a.parquet")
    table[:2].to_parquet(tmp_path / "b.parquet")
    assert [texts.num_empty for texts in TextSource(tmp_path, "queries")] == [0, 2]
    assert made(model, tmp_path / "q", table, "queries").notes == ("2 queries without text left out.",)


# One clear error


def test_columns_that_a_part_does_not_have_are_refused(model, tmp_path):
    table = TABLE.assign(title="Cars")
    with pytest.raises(
        InputError, match="role 'title', but this data has the roles 'id', 'text'. Use those"
    ) as refused:
        made(model, tmp_path / "v", table, "queries", {"title": "title"})
    assert refused.value.for_command_line.endswith("Use --id-column, --text-column.")
    assert made(model, tmp_path / "v", table, "corpus", {"title": "title"}).count == 64
    assert not (tmp_path / "q").exists()


def test_vectors_of_another_model_are_not_added_to(model, tiny_model, tiny_prompt_model_path, tmp_path):
    made(model, tmp_path / "v")
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "v").iterdir() if path.name != ".writing.lock")
    with pytest.raises(ValueError, match=r"was embedded with .*: the weights differ\. Choose another output"):
        made(tiny_model, tmp_path / "v")
    with pytest.raises(ValueError, match="vectors of the role 'document', and this is 'query'"):
        made(model, tmp_path / "v", TABLE, "queries")
    with pytest.raises(ValueError, match="vectors of the dtype 'float32', and this is 'float16'"):
        made(model, tmp_path / "v", dtype="float16")
    with pytest.raises(ValueError, match="vectors of the precision 'fp32', and this is 'bf16'"):
        made(SentenceTransformerEncoder(model, precision="bf16"), tmp_path / "v")
    assert before == sorted(
        path.stat().st_mtime_ns for path in (tmp_path / "v").iterdir() if path.name != ".writing.lock"
    )
    prompted = SentenceTransformer(str(tiny_prompt_model_path), device="cpu")
    made(prompted, tmp_path / "p")
    # In documents, the prompt of queries has no part.
    prompted.prompts["query"] = "ask: "
    made(prompted, tmp_path / "p")
    prompted.prompts["document"] = "doc: "
    with pytest.raises(ValueError, match="the same texts get other vectors|of the prompt 'document: '"):
        made(prompted, tmp_path / "p")


def test_what_cannot_be_embedded_is_said_before_anything_is(model, tmp_path, monkeypatch):
    def never(*given):
        raise AssertionError("nothing is to be embedded")

    twice = pd.concat([TABLE, TABLE[3:5]])
    with pytest.raises(ValueError, match="The data have 2 ids more than once: 'd3', 'd4'"):
        made(model, tmp_path / "v", twice, engine=never)
    with pytest.raises(ValueError, match="id"):
        made(model, tmp_path / "v", TABLE[["text"]], engine=never)
    with pytest.raises(ValueError, match="part_size is 0"):
        FolderSettings(part_size=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds 'notes.txt', but no _vectors.json"):
        made(model, tmp_path / "other", engine=never)
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage())
    with pytest.raises(ValueError, match="0.00 GB are free"):
        made(model, tmp_path / "v", engine=never)


class Other(Encoder):
    similarity, encode_query, encode_document = "dot", None, None
    identity = EncoderIdentity.unknown(2, False)


class _Usage:
    free = 1000


def test_data_without_some_documents_are_not_taken_for_the_same(model, tmp_path):
    made(model, tmp_path / "v")
    with pytest.raises(ValueError, match="vectors for 4 ids that the data do not have: 'd60', 'd61', 'd62', ..."):
        made(model, tmp_path / "v", TABLE[:60])


def test_of_a_full_disk_nothing_is_left_half_written(model, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = []

    def filling(encoder, writer, chunks, progress):
        for number, chunk in enumerate(chunks):
            if number == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
            written.append(writer.embed(encoder, chunk, progress))

    try:
        with pytest.raises(OSError, match=r"part-.* could not be written .*Make room"):
            made(model, tmp_path / "v", part_size=10, engine=filling)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(written) == 2 == len(list((tmp_path / "v").glob("part-*"))) and not list((tmp_path / "v").glob(".part*"))
    assert list(made(model, tmp_path / "v", part_size=10).ids) == IDS


@pytest.mark.parametrize("damage", ["cut", "empty", "rewritten", "packed"])
def test_a_part_that_cannot_be_read_is_named(damage, model, tmp_path):
    made(model, tmp_path / "v", part_size=16)
    part = sorted((tmp_path / "v").glob("part-*"))[1]
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-100])
    elif damage == "empty":
        part.write_bytes(b"")
    else:
        pages = {"data_page_size": 100, "write_batch_size": 1, "compression": "none", "use_dictionary": False}
        pq.write_table(pq.read_table(part), part, **(pages if damage == "rewritten" else {"compression": "snappy"}))
    for action in (lambda: VectorFolder(tmp_path / "v"), lambda: made(model, tmp_path / "v")):
        with pytest.raises(ValueError, match=rf"The part .*{part.name} cannot be read \(.*Delete it and run"):
            action()
    part.unlink()
    assert list(made(model, tmp_path / "v").ids) == IDS


@pytest.mark.parametrize("copied", ["over another", "beside it", "before it"])
def test_of_a_part_that_is_there_twice_the_copy_is_named(copied, model, tmp_path):
    made(model, tmp_path / "v", part_size=20)
    parts = sorted((tmp_path / "v").glob("part-*"))
    names = {"over another": parts[0].name, "beside it": f"{parts[1].stem}~copy.parquet", "before it": "part-0.parquet"}
    copy = parts[0].with_name(names[copied])
    copy.write_bytes(parts[1].read_bytes())
    for action in (lambda: VectorFolder(tmp_path / "v"), lambda: made(model, tmp_path / "v")):
        with pytest.raises(ValueError, match=rf"vectors of .*{parts[1].name} once more. Delete {copy.name}"):
            action()
    copy.unlink()
    assert list(made(model, tmp_path / "v").ids) == IDS


@pytest.mark.parametrize("encoder", [{}, {"name": "x"}, {"name": "x", "dimension": 31}])
def test_a_manifest_that_names_no_encoder_is_damaged(encoder, model, tmp_path):
    made(model, tmp_path / "v")
    manifest = json.loads((tmp_path / "v" / "_vectors.json").read_text())
    (tmp_path / "v" / "_vectors.json").write_text(json.dumps({**manifest, "encoder": encoder}))
    for action in (lambda: VectorFolder(tmp_path / "v"), lambda: made(model, tmp_path / "v")):
        with pytest.raises(
            ValueError, match="_vectors.json is damaged: it does not say which encoder of 32 dimensions"
        ):
            action()


def test_vectors_that_are_none_are_not_written(model, tmp_path):
    class Bad(SentenceTransformerEncoder):
        factor = float("nan")

        def encode_document(self, texts):
            return super().encode_document(texts) * torch.tensor([[self.factor if "river" in t else 1] for t in texts])

    bad = Bad(model)
    with pytest.raises(ValueError, match="NaN or infinite values for 15 texts"):
        made(bad, tmp_path / "v")
    assert not list((tmp_path / "v").glob("part-*"))
    bad.factor = 1e6
    with pytest.raises(ValueError, match="15 texts have numbers that float16 cannot hold"):
        made(bad, tmp_path / "w", dtype="float16")


def test_two_writers_wait_for_no_one(tmp_path):
    with only_writer(tmp_path / "v"), pytest.raises(ValueError, match="Another process writes to"):
        run_elsewhere(write_alone, tmp_path / "v")
    with only_writer(tmp_path / "v"):
        pass


def test_several_processes_run_sentence_transformers_models_alone(model, tmp_path, started_at_once):
    """In any precision; of what is none, it is said before anything is read or written."""
    with pytest.raises(
        ValueError, match="Several processes were asked for, but these run Sentence Transformers models"
    ):
        embed_to_folder(Other(), TextSource("nowhere", "corpus"), tmp_path / "v", FolderSettings(engine=LocalEngine(2)))
    assert not (tmp_path / "v").exists()
    half = SentenceTransformerEncoder(model, precision="bf16")
    rows = [everything(made(half, tmp_path / str(n), engine=LocalEngine(n)))[1] for n in (1, 2)]
    assert np.array_equal(*rows)
    with pytest.raises(ValueError, match="num_processes is 0"):
        LocalEngine(0)


def test_without_ray_it_is_said_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"Ray is not installed. .*pip install 'st-adapter\[ray\]'"):
        RayEngine(1)
    folder = VectorFolder(made(model, tmp_path / "v").folder, ray_address="local")
    with pytest.raises(ImportError, match="Ray is not installed"):
        DiskCorpus(folder, "cosine").search(torch.ones(1, 32), 1)
