"""A saved model is taken apart for the next training: the base model as it was, and the adapter in use."""

import pytest
import torch
from sentence_transformers import SentenceTransformer

from hub_double.server import ALICE
from problems import KINDS, make_adapter
from st_adapter import QueryAdapter, attach, save_pretrained
from st_adapter.embeddings.identity import identity_of
from st_adapter.saving.deployed import check_embeds_documents, taken_apart
from st_adapter.saving.folder import read_saved
from st_adapter.saving.model_files import read_modules
from st_adapter.saving.record import TrainingRecord

TEXTS = ["open a file", "close the file"]
VECTORS = torch.nn.functional.normalize(torch.randn(20, 32, generator=torch.Generator().manual_seed(1)))


def opened(folder):
    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def saved(tiny_model_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployed") / "model"
    return save_pretrained(opened(tiny_model_path), make_adapter(), folder, training=TrainingRecord(data="pairs.csv"))


def test_the_base_model_is_the_one_that_it_was(saved, tiny_model):
    apart = taken_apart(opened(saved))
    assert torch.equal(apart.adapter.delta, QueryAdapter.from_pretrained(saved).delta)
    assert apart.training.data == "pairs.csv" and apart.folder == saved
    for name in ("encode_query", "encode_document", "encode"):
        assert (getattr(apart.base, name)(TEXTS) == getattr(tiny_model, name)(TEXTS)).all()
    assert identity_of(apart.base) == identity_of(tiny_model), "name and fingerprint, by which the cache knows it"


def test_its_files_are_those_of_the_base_model(saved, tiny_model, tiny_model_path, tmp_path):
    base = taken_apart(opened(saved)).base
    again = save_pretrained(base, make_adapter(), tmp_path / "again", training=TrainingRecord(data="pairs.csv"))
    first = save_pretrained(tiny_model, make_adapter(), tmp_path / "first", training=TrainingRecord(data="pairs.csv"))
    assert read_saved(again).files == read_saved(first).files
    assert read_saved(again).base_model == read_saved(first).base_model
    alone, kept = (
        save_pretrained(each, None, tmp_path / name) for name, each in (("alone", base), ("kept", tiny_model))
    )
    files = [{**read_saved(each).files, "modules.json": read_modules(each)} for each in (alone, kept)]
    assert files[0] == files[1]
    assert not (alone / "README.md").exists(), "the card is that of a model with an adapter"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_an_adapter_that_was_attached_in_memory_is_found_again(kind, bias, tiny_model):
    adapter = make_adapter(kind, bias=bias)
    found = taken_apart(attach(tiny_model, adapter))
    assert found.training is None and found.folder is None
    with torch.no_grad():
        torch.testing.assert_close(found.adapter.transform(VECTORS), adapter.transform(VECTORS), atol=1e-6, rtol=0)
    assert found.adapter.base_model == identity_of(tiny_model)


def test_an_adapter_on_truncated_vectors_is_found_again(tiny_model_path):
    model = SentenceTransformer(str(tiny_model_path), device="cpu", truncate_dim=16)
    adapter = QueryAdapter(16, normalize=False)
    with torch.no_grad():
        adapter.delta.add_(0.1 * torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    found = taken_apart(attach(model, adapter)).adapter
    torch.testing.assert_close(found.delta, adapter.delta, atol=1e-6, rtol=0)


def test_another_adapter_on_the_same_base_is_not_taken_for_the_saved_one(saved):
    other = make_adapter("mlp")
    found = taken_apart(attach(taken_apart(opened(saved)).base, other))
    assert found.adapter.kind == "mlp" and found.training is None and found.folder is None


def test_a_model_without_an_adapter_is_its_own_base(tiny_model, tmp_path):
    assert taken_apart(tiny_model).base is tiny_model and taken_apart(tiny_model).adapter is None
    kept = taken_apart(opened(save_pretrained(tiny_model, None, tmp_path / "kept")))
    assert kept.adapter is None and identity_of(kept.base) == identity_of(tiny_model)


def test_layouts_for_other_software_are_refused(tiny_model, tmp_path):
    for layout, message in (
        ("query", r"saved for software that only knows plain encode\(\) \(layout 'query'\)"),
        ("twin", r"embeds queries alone \(layout 'twin'\); the documents that they find are embedded by"),
    ):
        folder = save_pretrained(tiny_model, make_adapter(), tmp_path / layout, layout=layout)
        with pytest.raises(ValueError, match=message):
            taken_apart(opened(folder))
    check_embeds_documents(opened(save_pretrained(tiny_model, None, tmp_path / "kept", layout="twin")))


def test_modules_of_another_making_are_refused(tiny_model):
    model = attach(tiny_model, make_adapter())
    model[-1].sub_modules["query"][0].activation_function = torch.nn.Tanh()
    with pytest.raises(
        ValueError, match=r"The modules for queries are \['Dense', 'Normalize'\], but those of an adapter"
    ):
        taken_apart(model)


def deployed_on_the_hub(folder, repo_id):
    """In the client's process: what is told of a model that was pushed and opened by its id."""
    from sentence_transformers import SentenceTransformer

    from st_adapter.embeddings.identity import identity_of
    from st_adapter.saving import push_folder
    from st_adapter.saving.deployed import taken_apart

    push_folder(folder, repo_id)
    apart = taken_apart(SentenceTransformer(repo_id, device="cpu"))
    return identity_of(apart.base).to_dict(), apart.training.data, apart.adapter.delta.tolist()


@pytest.mark.hub
def test_a_model_on_the_hub_is_taken_apart_by_its_id(saved, tiny_model, hub_server, hub_client):
    identity, data, delta = hub_client.run(deployed_on_the_hub, saved, "alice/deployed", token=ALICE)
    assert identity == identity_of(tiny_model).to_dict() and data == "pairs.csv"
    assert delta == QueryAdapter.from_pretrained(saved).delta.tolist()
